"""Feed-forward blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from .emit import Emit

Activation = Literal["silu", "gelu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class Gated:
    """down(activation(gate(x)) · up(x)) (Shazeer, 2020, GLU variants)."""

    intermediate_size: int
    activation: Activation

    def matrices(self, hidden_size: int) -> dict[str, tuple[int, int]]:
        """Names and shapes (N, K) of its weights."""
        wide, narrow = (self.intermediate_size, hidden_size), (hidden_size, self.intermediate_size)
        return {"gate_proj": wide, "up_proj": wide, "down_proj": narrow}


@dataclass(frozen=True, slots=True)
class Plain:
    """down(activation(up(x))) (Vaswani et al., 2017)."""

    intermediate_size: int
    activation: Activation

    def matrices(self, hidden_size: int) -> dict[str, tuple[int, int]]:
        return {"up_proj": (self.intermediate_size, hidden_size), "down_proj": (hidden_size, self.intermediate_size)}


def gated(emit: Emit, spec: Gated, x: ir.Value) -> ir.Value:
    both = emit.linear(x, "gate_proj", "up_proj")
    gate, up = emit.ops("Split", 2, both, emit.ints(spec.intermediate_size, spec.intermediate_size), axis=-1)
    return emit.linear(emit.op("Mul", activate(emit, spec.activation, gate), up), "down_proj")


def plain(emit: Emit, spec: Plain, x: ir.Value) -> ir.Value:
    return emit.linear(activate(emit, spec.activation, emit.linear(x, "up_proj")), "down_proj")


def activate(emit: Emit, activation: Activation, x: ir.Value) -> ir.Value:
    match activation:
        case "silu":  # x · sigmoid(x)
            return emit.contrib("QuickGelu", x, alpha=1.0)
        case "gelu":  # x · Φ(x)
            return emit.op("Gelu", x, approximate="none")
        case "gelu_tanh":  # the same with Φ approximated by tanh (Hendrycks and Gimpel, 2016)
            return emit.op("Gelu", x, approximate="tanh")
