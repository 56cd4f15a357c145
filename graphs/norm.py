"""Norms, alone and with the residual stream that they follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from mistralrs_onnx.ops import norm as ops
from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN

from .emit import Emit


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """x / sqrt(mean(x²) + epsilon) · gain (Zhang and Sennrich, 2019)."""

    epsilon: float


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """(x - mean(x)) / sqrt(var(x) + epsilon) · gain + bias (Ba et al., 2016); the bias may be missing."""

    epsilon: float


Norm = RMSNorm | LayerNorm


class Residual(NamedTuple):
    """The sum that runs through all layers, (tokens, hidden), and a block's result that is still to be added."""

    stream: ir.Value
    delta: ir.Value | None = None


class Normed(NamedTuple):
    """`normed`: what the next block reads. `stream`: the sum so far. Both (tokens, hidden)."""

    normed: ir.Value
    stream: ir.Value


def norm(emit: Emit, spec: Norm, x: ir.Value, name: str) -> ir.Value:
    gain = emit.vector(f"{name}.weight")
    match spec:
        case RMSNorm():
            return emit.call(ops.RMSNorm, x, gain, epsilon=spec.epsilon)[0]
        case LayerNorm():
            bias = emit.vector_or_none(f"{name}.bias")
            inputs = (x, gain) if bias is None else (x, gain, bias)
            return emit.op("LayerNormalization", *inputs, axis=-1, epsilon=spec.epsilon)


def add_norm(emit: Emit, spec: Norm, residual: Residual, name: str) -> Normed:
    """Adds what is still to be added and norms the sum, in one node where there is something to add."""
    stream, delta = residual
    if delta is None:
        return Normed(norm(emit, spec, stream, name), stream)
    inputs = [stream, delta, emit.vector(f"{name}.weight")]
    kind = "SkipSimplifiedLayerNormalization"
    if isinstance(spec, LayerNorm):
        kind, bias = "SkipLayerNormalization", emit.vector_or_none(f"{name}.bias")
        inputs += [] if bias is None else [bias]
    normed, _, _, total = emit.ops(kind, 4, *inputs, domain=CONTRIB_DOMAIN, epsilon=spec.epsilon)
    return Normed(normed, total)


def settle(emit: Emit, residual: Residual) -> ir.Value:
    """The stream with everything added."""
    return residual.stream if residual.delta is None else emit.op("Add", *residual)
