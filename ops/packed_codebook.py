"""Linear layers and embeddings over the planes of codebook and ternary formats; see `formats_codebook`."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import opset21 as op
from onnxscript import script

from .embedding import CentredRows
from .formats_codebook import IQ4_PAIRS, MXFP4_PAIRS, MXFP4_SCALES, TERNARY
from .functions import own
from .linear import CentredLinear, ZeroPointLinear
from .packed_bits import Byte, Grouped, Looked, Scaled, Shifted, Together, Twice

IQ4 = ir.tensor(IQ4_PAIRS)
FP4 = ir.tensor(MXFP4_PAIRS)
E8M0 = ir.tensor(MXFP4_SCALES)
DIGITS = ir.tensor(TERNARY)


@script(own, default_opset=op)
def IQ4Levels(q):
    """The codebook's entries, + 128, 32 a block"""
    return Grouped(Looked(op.Constant(value=IQ4), q), size=32)


@script(own, default_opset=op)
def IQ4_NLLinear(x, q, d, K: int, N: int, accuracy_level: int):
    """W = d · IQ4[q]"""
    levels = IQ4Levels(q)
    return CentredLinear(x, levels, op.Cast(d, to=1), K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IQ4_NLEmbedding(ids, q, d):
    """d · IQ4[q]"""
    return CentredRows(IQ4Levels(op.Gather(q, ids)), op.Gather(d, ids), middle=128.0)


@script(own, default_opset=op)
def IQ4_XSScales(low, high, d):
    """Scales of 32 columns"""
    upper = Shifted(Together(high, shifts=[0, 2, 4, 6], mask=3), bits=4)
    six = op.Cast(op.BitwiseOr(Together(low, shifts=[0, 4], mask=15), upper), to=1)
    return Scaled(d, op.Sub(six, op.Constant(value_float=32.0)))


@script(own, default_opset=op)
def IQ4_XSLinear(x, q, scale_low, scale_high, d, K: int, N: int, accuracy_level: int):
    """W = d · (sc - 32) · IQ4[q]"""
    levels = IQ4Levels(q)
    scales = IQ4_XSScales(scale_low, scale_high, d)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IQ4_XSEmbedding(ids, q, scale_low, scale_high, d):
    """d · (sc - 32) · IQ4[q]"""
    scales = IQ4_XSScales(op.Gather(scale_low, ids), op.Gather(scale_high, ids), op.Gather(d, ids))
    return CentredRows(IQ4Levels(op.Gather(q, ids)), scales, middle=128.0)


@script(own, default_opset=op)
def FP4Levels(q):
    """Twice the float4 numbers, + 128, 32 a block"""
    return Grouped(Looked(op.Constant(value=FP4), q), size=32)


@script(own, default_opset=op)
def MXFP4Linear(x, q, e, K: int, N: int, accuracy_level: int):
    """W = 2^(e - 128) · FP4[q]"""
    levels = FP4Levels(q)
    scale = Looked(op.Constant(value=E8M0), e)
    return CentredLinear(x, levels, scale, K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def MXFP4Embedding(ids, q, e):
    """2^(e - 128) · FP4[q]"""
    return CentredRows(FP4Levels(op.Gather(q, ids)), Looked(op.Constant(value=E8M0), op.Gather(e, ids)), middle=128.0)


@script(own, default_opset=op)
def TQ1_0Levels(q):
    """q + 1, four in a byte, 128 a block"""
    digits = op.Transpose(Looked(op.Constant(value=DIGITS), q), perm=[0, 1, 3, 2])  # (N, blocks, 5, 52)
    first, second, third = op.Split(digits, op.Constant(value_ints=[32, 16, 4]), axis=-1)
    four = op.Slice(third, op.Constant(value_ints=[0]), op.Constant(value_ints=[4]), op.Constant(value_ints=[2]))
    flat = op.Constant(value_ints=[0, 0, -1])
    columns = op.Concat(op.Reshape(first, flat), op.Reshape(second, flat), op.Reshape(four, flat), axis=-1)
    fields = op.Reshape(op.Add(columns, Byte(value=1)), op.Constant(value_ints=[0, -1, 32, 4]))
    a, b, c, d = op.Split(fields, num_outputs=4, axis=-1)
    low = op.BitwiseOr(a, Shifted(b, bits=2))
    high = op.BitwiseOr(Shifted(c, bits=4), Shifted(d, bits=6))
    return op.Squeeze(op.BitwiseOr(low, high), op.Constant(value_ints=[-1]))


@script(own, default_opset=op)
def TQ1_0Linear(x, q, d, K: int, N: int, accuracy_level: int):
    """W = d · (q - 1)"""
    levels = TQ1_0Levels(q)
    scale = Twice(d)
    return CentredLinear(x, levels, scale, K=K, N=N, bits=2, block_size=128, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def TQ1_0Embedding(ids, q, d):
    """d · (q - 1)"""
    levels = Together(TQ1_0Levels(op.Gather(q, ids)), shifts=[0, 2, 4, 6], mask=3)
    return CentredRows(levels, Twice(op.Gather(d, ids)), middle=2.0)


@script(own, default_opset=op)
def TQ2_0Linear(x, q, d, K: int, N: int, accuracy_level: int):
    """W = d · (q - 1); the zero points of four blocks share a byte"""
    levels = Grouped(q, size=32)
    scale = Twice(d)
    ones = op.Expand(Byte(value=0b01010101), op.Shape(scale))
    zero = op.Slice(
        ones,
        op.Constant(value_ints=[0]),
        op.Constant(value_ints=[1 << 62]),
        op.Constant(value_ints=[1]),
        op.Constant(value_ints=[4]),
    )
    return ZeroPointLinear(x, levels, scale, zero, K=K, N=N, bits=2, block_size=128, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def TQ2_0Embedding(ids, q, d):
    """d · (q - 1)"""
    levels = Together(Grouped(op.Gather(q, ids), size=32), shifts=[0, 2, 4, 6], mask=3)
    return CentredRows(levels, Twice(op.Gather(d, ids)), middle=1.0)
