"""Decoders: layers of attention and feed-forward blocks around one residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .attention import Attention, Cache, attention
from .contract import KVGeometry
from .emit import Emit
from .mlp import Gated, gated
from .norm import RMSNorm, add_norm, rms_norm


@dataclass(frozen=True, slots=True)
class Layer:
    """norm, attention, norm, feed-forward, each block's result added to the stream."""

    attention: Attention
    mlp: Gated
    norm: RMSNorm

    def shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden_size,))
        blocks = {"self_attn": self.attention.matrices(hidden_size), "mlp": self.mlp.matrices(hidden_size)}
        return norms | {f"{block}.{name}": shape for block, part in blocks.items() for name, shape in part.items()}


@dataclass(frozen=True, slots=True)
class Decoder:
    """A causal language model. `tied`: the LM head is the embedding matrix."""

    vocab_size: int
    hidden_size: int
    context_length: int
    layers: tuple[Layer, ...]
    norm: RMSNorm
    tied: bool

    @property
    def kv(self) -> KVGeometry:
        first = self.layers[0].attention
        return KVGeometry(len(self.layers), first.num_kv_heads, first.head_size)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight that `decoder` reads, by canonical name without `.weight`."""
        table = (self.vocab_size, self.hidden_size)
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": table, "model.norm": (self.hidden_size,)}
        if not self.tied:
            shapes["lm_head"] = table
        for i, layer in enumerate(self.layers):
            shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.shapes(self.hidden_size).items()}
        return shapes


def decoder(emit: Emit, spec: Decoder, cache: Cache) -> ir.Value:
    """Logits, (wanted positions, vocab)."""
    stream = emit.embed(cache.ids, "model.embed_tokens")
    normed = rms_norm(emit, spec.layers[0].norm, stream, "model.layers.0.input_layernorm")
    after = [(layer.norm, f"model.layers.{i}.input_layernorm") for i, layer in enumerate(spec.layers)][1:]
    after.append((spec.norm, "model.norm"))
    for i, layer in enumerate(spec.layers):
        with emit.at(f"model.layers.{i}"):
            with emit.at("self_attn"):
                delta = attention(emit, layer.attention, normed, cache, i)
            normed, stream = add_norm(emit, layer.norm, stream, delta, "post_attention_layernorm")
            with emit.at("mlp"):
                delta = gated(emit, layer.mlp, normed)
        norm, name = after[i]
        normed, stream = add_norm(emit, norm, stream, delta, name)
    return emit.linear(cache.wanted(normed), "model.embed_tokens" if spec.tied else "lm_head")
