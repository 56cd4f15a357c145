"""Linear layers and embeddings over the planes of the IQ1, IQ2 and IQ3 formats; see `formats_grid`.

Levels are uint8; signs are 1 or 255, which is -1 in the arithmetic of bytes.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import opset21 as op
from onnxscript import script

from .embedding import CentredRows
from .formats_grids import EVEN_SIGNS, GRIDS, SIGNS
from .functions import own
from .linear import CentredLinear
from .packed_bits import Byte, Grouped, Looked, Scaled, Shifted, Together, TogetherWide

GRID_1 = ir.tensor(GRIDS["IQ1"])
GRID_2_XXS = ir.tensor(GRIDS["IQ2_XXS"])
GRID_2_XS = ir.tensor(GRIDS["IQ2_XS"])
GRID_2_S = ir.tensor(GRIDS["IQ2_S"])
GRID_3_XXS = ir.tensor(GRIDS["IQ3_XXS"])
GRID_3_S = ir.tensor(GRIDS["IQ3_S"])
EIGHT_SIGNS = ir.tensor(SIGNS)
SEVEN_SIGNS = ir.tensor(EVEN_SIGNS)


@script(own, default_opset=op)
def Signed(magnitudes, signs, size: int):
    """128 ± magnitude, in groups of `size`"""
    products = op.Mul(Grouped(magnitudes, size=size), Grouped(signs, size=size))
    return op.Add(products, Byte(value=128))


@script(own, default_opset=op)
def LongIndex(low, high):
    """Indices of more than 8 bits: low + 256 · high"""
    return op.Add(op.Cast(low, to=6), op.Mul(op.Cast(high, to=6), op.Cast(op.Constant(value_int=256), to=6)))


@script(own, default_opset=op)
def Nudged(levels, bits, size: int):
    """One more, or one less where a bit is set: (N, blocks, n) levels and bits of n / size groups, in groups"""
    steps = op.Add(op.Mul(bits, Byte(value=254)), Byte(value=1))
    return op.Add(Grouped(levels, size=size), Grouped(steps, size=1))


@script(own, default_opset=op)
def HalfwayScales(d, scale, unit: float):
    """d · (scale + 1/2) · unit"""
    halfway = op.Add(op.Cast(scale, to=1), op.Constant(value_float=0.5))
    return Scaled(d, op.Mul(halfway, op.Constant(value_float=unit)))


@script(own, default_opset=op)
def EvenSigns(sign):
    """Signs of 32 columns from the lower 28 bits of a word"""
    return Looked(op.Constant(value=SEVEN_SIGNS), TogetherWide(sign, shifts=[0, 7, 14, 21], mask=127))


@script(own, default_opset=op)
def IQ2_XXSLevels(index, sign):
    """128 ± grid[index]"""
    return Signed(Looked(op.Constant(value=GRID_2_XXS), index), EvenSigns(sign), size=32)


@script(own, default_opset=op)
def IQ2_XXSLinear(x, index, sign, d, K: int, N: int, accuracy_level: int):
    """W = d · (scale + 1/2) / 4 · ±grid[index]"""
    levels = IQ2_XXSLevels(index, sign)
    scales = HalfwayScales(d, TogetherWide(sign, shifts=[28], mask=15), unit=0.25)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IQ2_XXSEmbedding(ids, index, sign, d):
    """d · (scale + 1/2) / 4 · ±grid[index]"""
    signs = op.Gather(sign, ids)
    scales = HalfwayScales(op.Gather(d, ids), TogetherWide(signs, shifts=[28], mask=15), unit=0.25)
    return CentredRows(IQ2_XXSLevels(op.Gather(index, ids), signs), scales, middle=128.0)


@script(own, default_opset=op)
def IQ2_XSLevels(index):
    """128 ± grid[lower 9 bits], signs from the upper 7"""
    magnitudes = Looked(op.Constant(value=GRID_2_XS), TogetherWide(index, shifts=[0], mask=511))
    signs = Looked(op.Constant(value=SEVEN_SIGNS), TogetherWide(index, shifts=[9], mask=127))
    return Signed(magnitudes, signs, size=16)


@script(own, default_opset=op)
def IQ2_XSLinear(x, index, scale, d, K: int, N: int, accuracy_level: int):
    """W = d · (scale + 1/2) / 4 · ±grid[index]"""
    levels = IQ2_XSLevels(index)
    scales = HalfwayScales(d, Together(scale, shifts=[0, 4], mask=15), unit=0.25)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=8, block_size=16, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IQ2_XSEmbedding(ids, index, scale, d):
    """d · (scale + 1/2) / 4 · ±grid[index]"""
    scales = HalfwayScales(op.Gather(d, ids), Together(op.Gather(scale, ids), shifts=[0, 4], mask=15), unit=0.25)
    return CentredRows(IQ2_XSLevels(op.Gather(index, ids)), scales, middle=128.0)


@script(own, default_opset=op)
def IQ2_SLevels(low, high, sign):
    """128 ± grid[index]"""
    index = LongIndex(low, Together(high, shifts=[0, 2, 4, 6], mask=3))
    signs = Looked(op.Constant(value=EIGHT_SIGNS), sign)
    return Signed(op.Gather(op.Constant(value=GRID_2_S), index), signs, size=16)


@script(own, default_opset=op)
def IQ2_SLinear(x, low, high, sign, scale, d, K: int, N: int, accuracy_level: int):
    """W = d · (scale + 1/2) / 4 · ±grid[index]"""
    levels = IQ2_SLevels(low, high, sign)
    scales = HalfwayScales(d, Together(scale, shifts=[0, 4], mask=15), unit=0.25)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=8, block_size=16, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IQ2_SEmbedding(ids, low, high, sign, scale, d):
    """d · (scale + 1/2) / 4 · ±grid[index]"""
    scales = HalfwayScales(op.Gather(d, ids), Together(op.Gather(scale, ids), shifts=[0, 4], mask=15), unit=0.25)
    levels = IQ2_SLevels(op.Gather(low, ids), op.Gather(high, ids), op.Gather(sign, ids))
    return CentredRows(levels, scales, middle=128.0)


@script(own, default_opset=op)
def IQ3_XXSLevels(index, sign):
    """128 ± grid[index]"""
    return Signed(Looked(op.Constant(value=GRID_3_XXS), index), EvenSigns(sign), size=32)


@script(own, default_opset=op)
def IQ3_XXSLinear(x, index, sign, d, K: int, N: int, accuracy_level: int):
    """W = d · (scale + 1/2) / 2 · ±grid[index]"""
    levels = IQ3_XXSLevels(index, sign)
    scales = HalfwayScales(d, TogetherWide(sign, shifts=[28], mask=15), unit=0.5)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IQ3_XXSEmbedding(ids, index, sign, d):
    """d · (scale + 1/2) / 2 · ±grid[index]"""
    signs = op.Gather(sign, ids)
    scales = HalfwayScales(op.Gather(d, ids), TogetherWide(signs, shifts=[28], mask=15), unit=0.5)
    return CentredRows(IQ3_XXSLevels(op.Gather(index, ids), signs), scales, middle=128.0)


@script(own, default_opset=op)
def IQ3_SLevels(low, high, sign):
    """128 ± grid[index]"""
    index = LongIndex(low, Together(high, shifts=[0, 1, 2, 3, 4, 5, 6, 7], mask=1))
    signs = Looked(op.Constant(value=EIGHT_SIGNS), sign)
    return Signed(op.Gather(op.Constant(value=GRID_3_S), index), signs, size=32)


@script(own, default_opset=op)
def IQ3_SScales(scale, d):
    """d · (1 + 2 scale), twice halfway"""
    return HalfwayScales(d, Together(scale, shifts=[0, 4], mask=15), unit=2.0)


@script(own, default_opset=op)
def IQ3_SLinear(x, low, high, sign, scale, d, K: int, N: int, accuracy_level: int):
    """W = d · (1 + 2 scale) · ±grid[index]"""
    levels = IQ3_SLevels(low, high, sign)
    scales = IQ3_SScales(scale, d)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IQ3_SEmbedding(ids, low, high, sign, scale, d):
    """d · (1 + 2 scale) · ±grid[index]"""
    levels = IQ3_SLevels(op.Gather(low, ids), op.Gather(high, ids), op.Gather(sign, ids))
    return CentredRows(levels, IQ3_SScales(op.Gather(scale, ids), op.Gather(d, ids)), middle=128.0)


@script(own, default_opset=op)
def IQ1_SLevels(low, high):
    """8 grid[index] ± 1, + 128"""
    index = LongIndex(low, TogetherWide(high, shifts=[0, 3, 6, 9], mask=7))
    bits = op.Cast(TogetherWide(high, shifts=[15], mask=1), to=2)
    return Nudged(op.Gather(op.Constant(value=GRID_1), index), bits, size=32)


@script(own, default_opset=op)
def IQ1_SLinear(x, low, high, d, K: int, N: int, accuracy_level: int):
    """W = d · (2 scale + 1) / 8 · (8 grid[index] ± 1)"""
    levels = IQ1_SLevels(low, high)
    scales = HalfwayScales(d, TogetherWide(high, shifts=[12], mask=7), unit=0.25)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IQ1_SEmbedding(ids, low, high, d):
    """d · (2 scale + 1) / 8 · (8 grid[index] ± 1)"""
    upper = op.Gather(high, ids)
    scales = HalfwayScales(op.Gather(d, ids), TogetherWide(upper, shifts=[12], mask=7), unit=0.25)
    return CentredRows(IQ1_SLevels(op.Gather(low, ids), upper), scales, middle=128.0)


@script(own, default_opset=op)
def IQ1_MLevels(low, high):
    """8 grid[index] ± 1, + 128"""
    nibbles = Together(high, shifts=[0, 4], mask=15)
    index = LongIndex(low, op.BitwiseAnd(nibbles, Byte(value=7)))
    bits = op.BitShift(nibbles, Byte(value=3), direction="RIGHT")
    return Grouped(Nudged(op.Gather(op.Constant(value=GRID_1), index), bits, size=8), size=16)


@script(own, default_opset=op)
def IQ1_MScales(low, high, d):
    """d · (2 scale + 1) / 8"""
    upper = Shifted(Together(high, shifts=[0, 1, 2, 3, 4, 5, 6, 7], mask=1), bits=2)
    return HalfwayScales(d, op.BitwiseOr(Together(low, shifts=[0, 2, 4, 6], mask=3), upper), unit=0.25)


@script(own, default_opset=op)
def IQ1_MLinear(x, low, high, scale_low, scale_high, d, K: int, N: int, accuracy_level: int):
    """W = d · (2 scale + 1) / 8 · (8 grid[index] ± 1)"""
    levels = IQ1_MLevels(low, high)
    scales = IQ1_MScales(scale_low, scale_high, d)
    return CentredLinear(x, levels, scales, K=K, N=N, bits=8, block_size=16, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def IQ1_MEmbedding(ids, low, high, scale_low, scale_high, d):
    """d · (2 scale + 1) / 8 · (8 grid[index] ± 1)"""
    scales = IQ1_MScales(op.Gather(scale_low, ids), op.Gather(scale_high, ids), op.Gather(d, ids))
    return CentredRows(IQ1_MLevels(op.Gather(low, ids), op.Gather(high, ids)), scales, middle=128.0)
