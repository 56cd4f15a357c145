"""Norms, alone and with the residual stream that they follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from mistralrs_onnx.ops import norm
from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN

from .emit import Emit


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """x / sqrt(mean(x²) + epsilon) · gain (Zhang and Sennrich, 2019)."""

    epsilon: float


class Residual(NamedTuple):
    """`stream`: the sum that runs through all layers. `normed`: what the next block reads. Both (tokens, hidden)."""

    normed: ir.Value
    stream: ir.Value


def rms_norm(emit: Emit, spec: RMSNorm, x: ir.Value, name: str) -> ir.Value:
    return emit.call(norm.RMSNorm, x, emit.vector(name), epsilon=spec.epsilon)[0]


def add_norm(emit: Emit, spec: RMSNorm, stream: ir.Value, delta: ir.Value, name: str) -> Residual:
    """Adds a block's result to the stream and norms the sum, in one node."""
    normed, _, _, total = emit.ops(
        "SkipSimplifiedLayerNormalization",
        4,
        stream,
        delta,
        emit.vector(name),
        domain=CONTRIB_DOMAIN,
        epsilon=spec.epsilon,
    )
    return Residual(normed, total)
