"""Linear layers and embeddings over the planes of the _0 and _1 families, Q8_K, and our own integer formats."""

from __future__ import annotations

from onnxscript import opset21 as op
from onnxscript import script

from .embedding import CentredRows, OffsetRows, ZeroPointRows
from .functions import own
from .linear import CentredLinear, OffsetLinear, ZeroPointLinear
from .packed_bits import Apart, Byte, Offset, Shifted, Together


@script(own, default_opset=op)
def Q4_0Linear(x, q, d, K: int, N: int, accuracy_level: int):
    """W = d · (q - 8)"""
    return CentredLinear(x, q, op.Cast(d, to=1), K=K, N=N, bits=4, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q4_1Linear(x, q, d, m, K: int, N: int, accuracy_level: int):
    """W = d · q + m, computed as d · (q - 8) + (m + 8 d)"""
    scale = op.Cast(d, to=1)
    offset = Offset(scale, op.Cast(m, to=1), steps=8.0)
    return OffsetLinear(x, q, scale, offset, K=K, N=N, bits=4, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def FiveBits(low, high):
    """q + 112 in 8 bits"""
    levels = op.BitwiseOr(
        Apart(low, shifts=[0, 4], mask=15), Shifted(Together(high, shifts=[0, 1, 2, 3, 4, 5, 6, 7], mask=1), bits=4)
    )
    return op.Add(levels, Byte(value=112))


@script(own, default_opset=op)
def Q5_0Linear(x, low, high, d, K: int, N: int, accuracy_level: int):
    """W = d · (q - 16)"""
    q = FiveBits(low, high)
    return CentredLinear(x, q, op.Cast(d, to=1), K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q5_1Linear(x, low, high, d, m, K: int, N: int, accuracy_level: int):
    """W = d · q + m, computed as d · (q - 16) + (m + 16 d)"""
    scale = op.Cast(d, to=1)
    offset = Offset(scale, op.Cast(m, to=1), steps=16.0)
    q = FiveBits(low, high)
    return OffsetLinear(x, q, scale, offset, K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q8_0Linear(x, q, d, K: int, N: int, accuracy_level: int):
    """W = d · (q - 128)"""
    return CentredLinear(x, q, op.Cast(d, to=1), K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q8_KLinear(x, q, d, K: int, N: int, accuracy_level: int):
    """W = d · (q - 128)"""
    return CentredLinear(x, q, d, K=K, N=N, bits=8, block_size=256, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IntLinear(x, q, d, K: int, N: int, bits: int, block_size: int, accuracy_level: int):
    """W = d · (q - 2^(bits-1))"""
    scale = op.Cast(d, to=1)
    return CentredLinear(x, q, scale, K=K, N=N, bits=bits, block_size=block_size, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Int4ZeroPointLinear(x, q, d, zero, K: int, N: int, bits: int, block_size: int, accuracy_level: int):
    """W = d · (q - zero); the zero points of two blocks share a byte"""
    last, two, end = op.Constant(value_ints=[1]), op.Constant(value_ints=[2]), op.Constant(value_ints=[1 << 62])
    even = op.Slice(zero, op.Constant(value_ints=[0]), end, last, two)
    padded = op.Pad(zero, op.Constant(value_ints=[0, 0, 0, 1]), Byte(value=0))
    pairs = op.BitwiseOr(even, Shifted(op.Slice(padded, last, end, last, two), bits=4))
    scale = op.Cast(d, to=1)
    return ZeroPointLinear(
        x, q, scale, pairs, K=K, N=N, bits=bits, block_size=block_size, accuracy_level=accuracy_level
    )


@script(own, default_opset=op)
def Int8ZeroPointLinear(x, q, d, zero, K: int, N: int, bits: int, block_size: int, accuracy_level: int):
    """W = d · (q - zero)"""
    scale = op.Cast(d, to=1)
    return ZeroPointLinear(x, q, scale, zero, K=K, N=N, bits=bits, block_size=block_size, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q4_0Embedding(ids, q, d):
    """d · (q - 8)"""
    levels = Together(op.Gather(q, ids), shifts=[0, 4], mask=15)
    return CentredRows(levels, op.Gather(d, ids), middle=8.0)


@script(own, default_opset=op)
def Q4_1Embedding(ids, q, d, m):
    """d · q + m"""
    levels = Together(op.Gather(q, ids), shifts=[0, 4], mask=15)
    return OffsetRows(levels, op.Gather(d, ids), op.Gather(m, ids), bottom=0.0)


@script(own, default_opset=op)
def Q5_0Embedding(ids, low, high, d):
    """d · (q - 16)"""
    return CentredRows(FiveBits(op.Gather(low, ids), op.Gather(high, ids)), op.Gather(d, ids), middle=128.0)


@script(own, default_opset=op)
def Q5_1Embedding(ids, low, high, d, m):
    """d · q + m"""
    levels = FiveBits(op.Gather(low, ids), op.Gather(high, ids))
    return OffsetRows(levels, op.Gather(d, ids), op.Gather(m, ids), bottom=112.0)


@script(own, default_opset=op)
def Q8_0Embedding(ids, q, d):
    """d · (q - 128)"""
    return CentredRows(op.Gather(q, ids), op.Gather(d, ids), middle=128.0)


@script(own, default_opset=op)
def Int4ZeroPointEmbedding(ids, q, d, zero):
    """d · (q - zero)"""
    levels = Together(op.Gather(q, ids), shifts=[0, 4], mask=15)
    return ZeroPointRows(levels, op.Gather(d, ids), op.Gather(zero, ids))


@script(own, default_opset=op)
def Int8ZeroPointEmbedding(ids, q, d, zero):
    """d · (q - zero)"""
    return ZeroPointRows(op.Gather(q, ids), op.Gather(d, ids), op.Gather(zero, ids))
