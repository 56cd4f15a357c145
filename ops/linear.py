"""Linear layers over the planes of block formats: y = x · Wᵀ.

Each is a function whose first part widens the planes (constants, so it is folded when a session is made) and whose
second part is stock operators. x: float32 (T, K). y: float32 (T, N).
"""

from __future__ import annotations

import numpy as np
from onnxscript import opset21 as op
from onnxscript import script

from .formats_block import Float32, NBits
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
    num_blocks = op.Div(op.Reshape(op.Constant(value_int=K), last), block)
    blocks = op.Reshape(x, op.Concat(last, num_blocks, block, axis=0))  # of no rows, too
    return op.Gemm(op.ReduceSum(blocks, last, keepdims=0), offset, y, transB=1)


@script(own, default_opset=op)
def ZeroPointLinear(x, q, scale, zero, K: int, N: int, bits: int, block_size: int, accuracy_level: int):
    """y = x · ((q - zero) · scale)ᵀ; zero: uint8 (N, blocks · bits / 8), lowest bits first"""
    return contrib.MatMulNBits(
        x, q, scale, zero, K=K, N=N, bits=bits, block_size=block_size, accuracy_level=accuracy_level
    )


@script(own, default_opset=op)
def DenseLinear(x, w):
    """W = w, kept in float32, float16 or bfloat16 (N, K)"""
    return op.Gemm(x, op.Cast(w, to=1), transB=1)
