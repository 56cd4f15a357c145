"""Layers: how attention and feed-forward block hang on the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .attention import Attention, Cache, attention
from .emit import Emit
from .mlp import Gated, Plain, gated, plain
from .moe import MoE, moe
from .norm import Norm, Residual, add_norm, norm, settle

FeedForward = Gated | Plain | MoE


@dataclass(frozen=True, slots=True)
class Layer:
    """norm, attention, norm, feed-forward; each block's result, times `residual_scale`, is added to the stream."""

    attention: Attention
    mlp: FeedForward
    norm: Norm
    residual_scale: float = 1.0

    norms = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True, slots=True)
class Sandwich:
    """Norms before and after each block (Gemma 2)."""

    attention: Attention
    mlp: FeedForward
    norm: Norm

    norms = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )


@dataclass(frozen=True, slots=True)
class PostNorm:
    """Blocks read the stream as it is; their results are normed before they are added (OLMo 2)."""

    attention: Attention
    mlp: FeedForward
    norm: Norm

    norms = ("post_attention_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True, slots=True)
class Parallel:
    """Attention and feed-forward block read the same norm, and both results are added (Phi-2)."""

    attention: Attention
    mlp: FeedForward
    norm: Norm

    norms = ("input_layernorm",)


AnyLayer = Layer | Sandwich | PostNorm | Parallel


def layer_shapes(layer: AnyLayer, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Shape of every weight that the layer reads, by its name inside it; biases of linears are not among them."""
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (hidden_size,) for name in layer.norms}
    shapes |= {f"self_attn.{name}": shape for name, shape in layer.attention.shapes(hidden_size).items()}
    return shapes | {f"mlp.{name}.weight": shape for name, shape in layer.mlp.matrices(hidden_size).items()}


def layer(emit: Emit, spec: AnyLayer, residual: Residual, cache: Cache, index: int) -> Residual:
    """What the layer makes of the stream."""

    def attend(x: ir.Value) -> ir.Value:
        with emit.at("self_attn"):
            return emit.wide(attention(emit, spec.attention, emit.narrow(x), cache, index))

    match spec:
        case Layer():
            normed, stream = add_norm(emit, spec.norm, residual, "input_layernorm")
            delta = _scaled(emit, attend(normed), spec.residual_scale)
            normed, stream = add_norm(emit, spec.norm, Residual(stream, delta), "post_attention_layernorm")
            return Residual(stream, _scaled(emit, feed_forward(emit, spec.mlp, normed), spec.residual_scale))
        case Sandwich():
            normed, stream = add_norm(emit, spec.norm, residual, "input_layernorm")
            delta = norm(emit, spec.norm, attend(normed), "post_attention_layernorm")
            normed, stream = add_norm(emit, spec.norm, Residual(stream, delta), "pre_feedforward_layernorm")
            delta = feed_forward(emit, spec.mlp, normed)
            return Residual(stream, norm(emit, spec.norm, delta, "post_feedforward_layernorm"))
        case PostNorm():
            stream = settle(emit, residual)
            delta = norm(emit, spec.norm, attend(stream), "post_attention_layernorm")
            stream = settle(emit, Residual(stream, delta))
            delta = feed_forward(emit, spec.mlp, stream)
            return Residual(stream, norm(emit, spec.norm, delta, "post_feedforward_layernorm"))
        case Parallel():
            normed, stream = add_norm(emit, spec.norm, residual, "input_layernorm")
            return Residual(stream, emit.op("Add", attend(normed), feed_forward(emit, spec.mlp, normed)))


def feed_forward(emit: Emit, spec: FeedForward, x: ir.Value) -> ir.Value:
    """x and the result are float32."""
    narrow = emit.narrow(x)
    with emit.at("mlp"):
        match spec:
            case Gated():
                return emit.wide(gated(emit, spec, narrow))
            case Plain():
                return emit.wide(plain(emit, spec, narrow))
            case MoE():
                return moe(emit, spec, narrow)


def _scaled(emit: Emit, x: ir.Value, factor: float) -> ir.Value:
    return x if factor == 1.0 else emit.op("Mul", x, emit.const(np.float32(factor)))
