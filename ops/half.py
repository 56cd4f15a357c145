"""Linear layers whose activations are float16, for devices that multiply those faster.

Each takes the place of the function of the same name in `linear`, with the same inputs, in a graph of its own: x and y
are float16 (T, K) and (T, N). What is summed beside the product is summed in float32.
"""

from __future__ import annotations

from functools import cache

import onnx_ir as ir
from onnxscript import OnnxFunction, script
from onnxscript import opset21 as op

from .functions import contrib, definitions, own
from .linear import CentredLinear, DenseLinear, OffsetLinear, ZeroPointLinear


@script(own, default_opset=op)
def HalfCentredLinear(x, q, scale, K: int, N: int, bits: int, block_size: int, accuracy_level: int):
    """y = x · ((q - 2^(bits-1)) · scale)ᵀ"""
    half = op.Cast(scale, to=10)
    return contrib.MatMulNBits(x, q, half, K=K, N=N, bits=bits, block_size=block_size, accuracy_level=accuracy_level)


@script(own, default_opset=op)
def HalfOffsetLinear(x, q, scale, offset, K: int, N: int, bits: int, block_size: int, accuracy_level: int):
    """y = x · ((q - 2^(bits-1)) · scale)ᵀ + blocksum(x) · offsetᵀ"""
    half = op.Cast(scale, to=10)
    y = contrib.MatMulNBits(x, q, half, K=K, N=N, bits=bits, block_size=block_size, accuracy_level=accuracy_level)
    last = op.Constant(value_ints=[-1])
    block = op.Reshape(op.Constant(value_int=block_size), last)
    num_blocks = op.Div(op.Reshape(op.Constant(value_int=K), last), block)
    blocks = op.Reshape(op.Cast(x, to=1), op.Concat(last, num_blocks, block, axis=0))
    total = op.Gemm(op.ReduceSum(blocks, last, keepdims=0), offset, op.Cast(y, to=1), transB=1)
    return op.Cast(total, to=10)


@script(own, default_opset=op)
def HalfZeroPointLinear(x, q, scale, zero, K: int, N: int, bits: int, block_size: int, accuracy_level: int):
    """y = x · ((q - zero) · scale)ᵀ; zero: uint8 (N, blocks · bits / 8), lowest bits first"""
    half = op.Cast(scale, to=10)
    return contrib.MatMulNBits(
        x, q, half, zero, K=K, N=N, bits=bits, block_size=block_size, accuracy_level=accuracy_level
    )


@script(own, default_opset=op)
def HalfDenseLinear(x, w):
    """W = w, kept in float32, float16 or bfloat16 (N, K)"""
    return op.Gemm(x, op.Cast(w, to=10), transB=1)


_HALVES: dict[str, OnnxFunction] = {
    CentredLinear.name: HalfCentredLinear,
    OffsetLinear.name: HalfOffsetLinear,
    ZeroPointLinear.name: HalfZeroPointLinear,
    DenseLinear.name: HalfDenseLinear,
}


@cache
def half_definitions(function: OnnxFunction) -> tuple[ir.Function, ...]:
    """As `definitions`, with the functions above in the places of theirs."""
    return tuple(_halved(each) for each in definitions(function))


def _halved(made: ir.Function) -> ir.Function:
    if made.name not in _HALVES:
        return made
    half = ir.serde.deserialize_function(_HALVES[made.name].to_function_proto())
    half.name = made.name
    return half
