"""Linear layers over the planes of block formats: y = x · Wᵀ.

Each is a function whose first part widens the planes (constants, so it is folded when a session is made) and whose
second part is stock operators. x: float32 (T, K). y: float32 (T, N).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnxscript import OnnxFunction, script
from onnxscript import opset21 as op

from .formats import Float32, NBits
from .functions import contrib, own

INT8_ACTIVATIONS = 4  # accuracy_level of MatMulNBits: x is rounded to int8 per block
FLOAT_ACTIVATIONS = 1


def linear(x: Float32, weights: NBits) -> Float32:
    """The meaning of every packed linear in float64, without the rounding of activations."""
    return (x.astype(np.float64) @ weights.dequantize().T).astype(np.float32)


@script(own, default_opset=op)
def CentredLinear(x, q, scale, K: int, N: int, bits: int, block_size: int, accuracy_level: int):
    """y = x · ((q - 2^(bits-1)) · scale)ᵀ"""
    return contrib.MatMulNBits(x, q, scale, K=K, N=N, bits=bits, block_size=block_size, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def OffsetLinear(x, q, scale, offset, K: int, N: int, bits: int, block_size: int, accuracy_level: int):
    """y = x · ((q - 2^(bits-1)) · scale)ᵀ + blocksum(x) · offsetᵀ"""
    y = contrib.MatMulNBits(x, q, scale, K=K, N=N, bits=bits, block_size=block_size, accuracy_level=accuracy_level)
    last = op.Constant(value_ints=[-1])
    block = op.Reshape(op.Constant(value_int=block_size), last)
    blocks = op.Reshape(x, op.Concat(op.Constant(value_ints=[0, -1]), block, axis=0))
    return op.Gemm(op.ReduceSum(blocks, last, keepdims=0), offset, y, transB=1)


@script(own, default_opset=op)
def Q4_0Linear(x, q, d, K: int, N: int, accuracy_level: int):
    """W = d · (q - 8)"""
    return CentredLinear(x, q, op.Cast(d, to=1), K=K, N=N, bits=4, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q4_1Linear(x, q, d, m, K: int, N: int, accuracy_level: int):
    """W = d · q + m, computed as d · (q - 8) + (m + 8 d)"""
    scale = op.Cast(d, to=1)
    offset = op.Add(op.Cast(m, to=1), op.Mul(scale, op.Constant(value_float=8.0)))
    return OffsetLinear(x, q, scale, offset, K=K, N=N, bits=4, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def Q8_0Linear(x, q, d, K: int, N: int, accuracy_level: int):
    """W = d · (q - 128)"""
    return CentredLinear(x, q, op.Cast(d, to=1), K=K, N=N, bits=8, block_size=32, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def DenseLinear(x, w):
    """W = w, kept in float32, float16 or bfloat16 (N, K)"""
    return op.MatMul(x, op.Transpose(op.Cast(w, to=1), perm=[1, 0]))


class PackedLinear(NamedTuple):
    """The function over a format's planes, and the one over what they widen to (`Format.nbits`)."""

    compact: OnnxFunction
    widened: OnnxFunction


LINEARS: dict[str, PackedLinear] = {
    "Q4_0": PackedLinear(Q4_0Linear, CentredLinear),
    "Q4_1": PackedLinear(Q4_1Linear, OffsetLinear),
    "Q8_0": PackedLinear(Q8_0Linear, CentredLinear),
}
