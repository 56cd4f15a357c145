"""Decoders: embedding, layers around one residual stream, LM head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from .attention import Cache
from .contract import KVGeometry
from .emit import Emit
from .layer import AnyLayer, layer, layer_shapes
from .norm import Norm, Residual, add_norm
from .rotary import LongRope


@dataclass(frozen=True, slots=True)
class Decoder:
    """A causal language model. `tied`: the LM head is the embedding matrix.

    Embeddings are multiplied by `embedding_scale`, logits by `logits_scale`; with `logits_softcap` c they become
    c · tanh(logits / c).
    """

    vocab_size: int
    hidden_size: int
    context_length: int
    layers: tuple[AnyLayer, ...]
    norm: Norm
    tied: bool
    embedding_scale: float = 1.0
    logits_scale: float = 1.0
    logits_softcap: float | None = None

    @property
    def kv(self) -> KVGeometry:
        first = self.layers[0].attention
        return KVGeometry(len(self.layers), first.num_kv_heads, first.cached_size)

    @property
    def rope_switch(self) -> int | None:
        """Up to how many tokens the first of two rotary tables is meant."""
        ropes = [each.attention.rope for each in self.layers]
        return next((rope.original_length for rope in ropes if isinstance(rope, LongRope)), None)

    @property
    def grouped_decode(self) -> bool:
        return not any(each.attention.sinks for each in self.layers)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight that `decoder` reads, by canonical name; biases are not among them."""
        table = (self.vocab_size, self.hidden_size)
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": table,
            "model.norm.weight": (self.hidden_size,),
        }
        if not self.tied:
            shapes["lm_head.weight"] = table
        for i, each in enumerate(self.layers):
            shapes |= {
                f"model.layers.{i}.{name}": shape for name, shape in layer_shapes(each, self.hidden_size).items()
            }
        return shapes


class Decoded(NamedTuple):
    """Logits, (wanted positions, vocab), and what the LM head reads of all tokens, (tokens, hidden)."""

    logits: ir.Value
    hidden: ir.Value


def decoder(emit: Emit, spec: Decoder, cache: Cache) -> Decoded:
    stream = emit.embed(cache.ids, "model.embed_tokens")
    residual = Residual(_times(emit, stream, spec.embedding_scale))
    for i, each in enumerate(spec.layers):
        with emit.at(f"model.layers.{i}"):
            residual = layer(emit, each, residual, cache, i)
    normed = add_norm(emit, spec.norm, residual, "model.norm").normed
    wanted = emit.narrow(cache.wanted(normed))
    logits = emit.wide(emit.linear(wanted, "model.embed_tokens" if spec.tied else "lm_head"))
    return Decoded(_softcapped(emit, _times(emit, logits, spec.logits_scale), spec.logits_softcap), normed)


def _times(emit: Emit, x: ir.Value, factor: float) -> ir.Value:
    return x if factor == 1.0 else emit.op("Mul", x, emit.const(np.float32(factor)))


def _softcapped(emit: Emit, logits: ir.Value, cap: float | None) -> ir.Value:
    if cap is None:
        return logits
    return _times(emit, emit.op("Tanh", _times(emit, logits, 1 / cap)), cap)
