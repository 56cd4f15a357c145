"""Linear layers and embeddings over the planes of the K formats; `formats_k` says what the planes hold."""

from __future__ import annotations

from onnxscript import opset21 as op
from onnxscript import script

from .embedding import CentredRows, OffsetRows
from .functions import own
from .linear import CentredLinear, OffsetLinear
from .packed_bits import Apart, Byte, Grouped, Offset, Scaled, Shifted, Together


@script(own, default_opset=op)
def Q2_KLevels(q):
    """q + 6, two in a byte"""
    return Grouped(op.Add(Apart(q, shifts=[0, 2], mask=0x33), Byte(value=0x66)), size=8)


@script(own, default_opset=op)
def Q2_KScales(scale, d, dmin):
    """Scales and minima of 16 columns"""
    high = op.BitShift(scale, Byte(value=4), direction="RIGHT")
    return Scaled(d, op.BitwiseAnd(scale, Byte(value=15))), op.Neg(Scaled(dmin, high))


@script(own, default_opset=op)
def Q2_KLinear(x, q, scale, d, dmin, K: int, N: int, accuracy_level: int):
    """W = d · sc · q - dmin · m"""
    scales, minima = Q2_KScales(scale, d, dmin)
    offset = Offset(scales, minima, steps=2.0)
    levels = Q2_KLevels(q)
    return OffsetLinear(x, levels, scales, offset, K=K, N=N, bits=4, block_size=16, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q2_KEmbedding(ids, q, scale, d, dmin):
    """d · sc · q - dmin · m"""
    scales, minima = Q2_KScales(op.Gather(scale, ids), op.Gather(d, ids), op.Gather(dmin, ids))
    levels = Together(Q2_KLevels(op.Gather(q, ids)), shifts=[0, 4], mask=15)
    return OffsetRows(levels, scales, minima, bottom=6.0)


@script(own, default_opset=op)
def Q3_KLevels(low, high):
    """q + 4, two in a byte"""
    upper = Shifted(Apart(high, shifts=[0, 1, 2, 3], mask=0x11), bits=2)
    levels = op.BitwiseOr(Apart(low, shifts=[0, 2], mask=0x33), upper)
    return Grouped(op.Add(levels, Byte(value=0x44)), size=8)


@script(own, default_opset=op)
def Q3_KScales(scale, d):
    """Scales of 16 columns"""
    low, high = op.Split(scale, op.Constant(value_ints=[8, 4]), axis=-1)
    upper = Shifted(Apart(high, shifts=[0, 2, 4, 6], mask=3), bits=4)
    six = op.Cast(op.BitwiseOr(Apart(low, shifts=[0, 4], mask=15), upper), to=1)
    return Scaled(d, op.Sub(six, op.Constant(value_float=32.0)))


@script(own, default_opset=op)
def Q3_KLinear(x, low, high, scale, d, K: int, N: int, accuracy_level: int):
    """W = d · (sc - 32) · (q - 4)"""
    levels = Q3_KLevels(low, high)
    scales = Q3_KScales(scale, d)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=4, block_size=16, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q3_KEmbedding(ids, low, high, scale, d):
    """d · (sc - 32) · (q - 4)"""
    levels = Together(Q3_KLevels(op.Gather(low, ids), op.Gather(high, ids)), shifts=[0, 4], mask=15)
    return CentredRows(levels, Q3_KScales(op.Gather(scale, ids), op.Gather(d, ids)), middle=8.0)


@script(own, default_opset=op)
def SixBitPairs(scale, d, dmin):
    """Scales and minima of 32 columns, from 12 bytes a super-block"""
    first, second, third = op.Split(scale, num_outputs=3, axis=-1)
    first_upper = op.BitwiseAnd(op.BitShift(first, Byte(value=2), direction="RIGHT"), Byte(value=48))
    second_upper = op.BitwiseAnd(op.BitShift(second, Byte(value=2), direction="RIGHT"), Byte(value=48))
    sc = op.BitwiseOr(op.BitwiseAnd(third, Byte(value=15)), first_upper)
    m = op.BitwiseOr(op.BitShift(third, Byte(value=4), direction="RIGHT"), second_upper)
    scales = Scaled(d, op.Concat(op.BitwiseAnd(first, Byte(value=63)), sc, axis=-1))
    minima = op.Neg(Scaled(dmin, op.Concat(op.BitwiseAnd(second, Byte(value=63)), m, axis=-1)))
    return scales, minima


@script(own, default_opset=op)
def Q4_KLinear(x, q, scale, d, dmin, K: int, N: int, accuracy_level: int):
    """W = d · sc · q - dmin · m"""
    scales, minima = SixBitPairs(scale, d, dmin)
    offset = Offset(scales, minima, steps=8.0)
    levels = Grouped(q, size=16)
    return OffsetLinear(x, levels, scales, offset, K=K, N=N, bits=4, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q4_KEmbedding(ids, q, scale, d, dmin):
    """d · sc · q - dmin · m"""
    scales, minima = SixBitPairs(op.Gather(scale, ids), op.Gather(d, ids), op.Gather(dmin, ids))
    levels = Together(Grouped(op.Gather(q, ids), size=16), shifts=[0, 4], mask=15)
    return OffsetRows(levels, scales, minima, bottom=0.0)


@script(own, default_opset=op)
def Q5_KLevels(low, high):
    """q + 112"""
    lower = Grouped(Apart(Grouped(low, size=32), shifts=[0, 4], mask=15), size=32)
    upper = Grouped(Apart(high, shifts=[0, 1, 2, 3, 4, 5, 6, 7], mask=1), size=32)
    return op.Add(op.BitwiseOr(lower, Shifted(upper, bits=4)), Byte(value=112))


@script(own, default_opset=op)
def Q5_KLinear(x, low, high, scale, d, dmin, K: int, N: int, accuracy_level: int):
    """W = d · sc · q - dmin · m"""
    scales, minima = SixBitPairs(scale, d, dmin)
    offset = Offset(scales, minima, steps=16.0)
    levels = Q5_KLevels(low, high)
    return OffsetLinear(x, levels, scales, offset, K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q5_KEmbedding(ids, low, high, scale, d, dmin):
    """d · sc · q - dmin · m"""
    scales, minima = SixBitPairs(op.Gather(scale, ids), op.Gather(d, ids), op.Gather(dmin, ids))
    levels = Q5_KLevels(op.Gather(low, ids), op.Gather(high, ids))
    return OffsetRows(levels, scales, minima, bottom=112.0)


@script(own, default_opset=op)
def Q6_KLevels(low, high):
    """q + 96"""
    lower = Apart(Grouped(low, size=64), shifts=[0, 4], mask=15)
    upper = Apart(Grouped(high, size=32), shifts=[0, 2, 4, 6], mask=3)
    return Grouped(op.Add(op.BitwiseOr(lower, Shifted(upper, bits=4)), Byte(value=96)), size=16)


@script(own, default_opset=op)
def Q6_KLinear(x, low, high, scale, d, K: int, N: int, accuracy_level: int):
    """W = d · sc · (q - 32)"""
    levels = Q6_KLevels(low, high)
    scales = Scaled(d, scale)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=8, block_size=16, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q6_KEmbedding(ids, low, high, scale, d):
    """d · sc · (q - 32)"""
    levels = Q6_KLevels(op.Gather(low, ids), op.Gather(high, ids))
    return CentredRows(levels, Scaled(op.Gather(d, ids), op.Gather(scale, ids)), middle=128.0)
