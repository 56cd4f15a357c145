"""Small integers in bytes, and the scales beside them, as ONNX functions; `formats_block` says the same in numpy.

packed: uint8 (N, blocks, n). Every result has rank 3 too, but where it says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import opset21 as op
from onnxscript import script

from .functions import own


@script(own, default_opset=op)
def Byte(value: int):
    """A uint8 scalar"""
    return op.Cast(op.Constant(value_int=value), to=2)


@script(own, default_opset=op)
def Shifted(packed, bits: int):
    """packed · 2^bits: fields at the bottom of bytes to a higher place"""
    return op.BitShift(packed, Byte(value=bits), direction="LEFT")


@script(own, default_opset=op)
def Apart(packed, shifts: Sequence[int], mask: int):
    """(packed >> shifts[0]) & mask, then the same with the other shifts: (N, blocks, len(shifts) · n)"""
    by = op.Unsqueeze(op.Cast(op.Constant(value_ints=shifts), to=2), op.Constant(value_ints=[-1]))
    parts = op.BitShift(op.Unsqueeze(packed, op.Constant(value_ints=[-2])), by, direction="RIGHT")
    return op.Reshape(op.BitwiseAnd(parts, Byte(value=mask)), op.Constant(value_ints=[0, 0, -1]))


@script(own, default_opset=op)
def Together(packed, shifts: Sequence[int], mask: int):
    """(packed >> shift) & mask for all shifts, neighbours from one byte: (N, blocks, n · len(shifts))"""
    by = op.Cast(op.Constant(value_ints=shifts), to=2)
    parts = op.BitShift(op.Unsqueeze(packed, op.Constant(value_ints=[-1])), by, direction="RIGHT")
    return op.Reshape(op.BitwiseAnd(parts, Byte(value=mask)), op.Constant(value_ints=[0, 0, -1]))


@script(own, default_opset=op)
def TogetherWide(packed, shifts: Sequence[int], mask: int):
    """As Together, for uint16 and uint32 to uint32; older hosts shift no uint16"""
    words = op.Unsqueeze(op.Cast(packed, to=12), op.Constant(value_ints=[-1]))
    parts = op.BitShift(words, op.Cast(op.Constant(value_ints=shifts), to=12), direction="RIGHT")
    fields = op.BitwiseAnd(parts, op.Cast(op.Constant(value_int=mask), to=12))
    return op.Reshape(fields, op.Constant(value_ints=[0, 0, -1]))


@script(own, default_opset=op)
def Looked(table, indices):
    """table[indices]"""
    return op.Gather(table, op.Cast(indices, to=6))


@script(own, default_opset=op)
def Grouped(packed, size: int):
    """(N, blocks, n, ...) to (N, blocks · n · ... / size, size)"""
    shape = op.Concat(
        op.Constant(value_ints=[0, -1]),
        op.Reshape(op.Constant(value_int=size), op.Constant(value_ints=[1])),
        axis=0,
    )
    return op.Reshape(packed, shape)


@script(own, default_opset=op)
def Scaled(d, integers):
    """d · integers of each block: (N, blocks) and (N, blocks, n) to float32 (N, blocks · n)"""
    products = op.Mul(op.Cast(integers, to=1), op.Unsqueeze(op.Cast(d, to=1), op.Constant(value_ints=[-1])))
    return op.Reshape(products, op.Constant(value_ints=[0, -1]))


@script(own, default_opset=op)
def Twice(d):
    """Each scale for two blocks: (N, blocks) to float32 (N, 2 · blocks)"""
    column = op.Unsqueeze(op.Cast(d, to=1), op.Constant(value_ints=[-1]))
    return op.Reshape(op.Concat(column, column, axis=-1), op.Constant(value_ints=[0, -1]))


@script(own, default_opset=op)
def Offset(scale, minimum, steps: float):
    """The offset of levels whose middle lies `steps` above the minimum"""
    return op.Add(minimum, op.Mul(scale, op.Constant(value_float=steps)))
