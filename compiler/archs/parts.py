"""What architecture files have in common: sizes, activations, windows, and the decoder around the layers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.positions import read_rope
from mistralrs_onnx.graphs.attention import Attention
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.layer import AnyLayer
from mistralrs_onnx.graphs.mlp import Activation, Gated
from mistralrs_onnx.graphs.norm import LayerNorm, RMSNorm

from .arch import Has

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

# GGUF names of the parts that most architectures have.
GGUF_TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{i}.input_layernorm": "blk.{i}.attn_norm",
    "model.layers.{i}.self_attn.q_proj": "blk.{i}.attn_q",
    "model.layers.{i}.self_attn.k_proj": "blk.{i}.attn_k",
    "model.layers.{i}.self_attn.v_proj": "blk.{i}.attn_v",
    "model.layers.{i}.self_attn.o_proj": "blk.{i}.attn_output",
    "model.layers.{i}.self_attn.q_norm": "blk.{i}.attn_q_norm",
    "model.layers.{i}.self_attn.k_norm": "blk.{i}.attn_k_norm",
    "model.layers.{i}.post_attention_layernorm": "blk.{i}.ffn_norm",
    "model.layers.{i}.mlp.gate_proj": "blk.{i}.ffn_gate",
    "model.layers.{i}.mlp.up_proj": "blk.{i}.ffn_up",
    "model.layers.{i}.mlp.down_proj": "blk.{i}.ffn_down",
    "model.layers.{i}.mlp.gate": "blk.{i}.ffn_gate_inp",
    "model.layers.{i}.mlp.experts.gate_proj": "blk.{i}.ffn_gate_exps",
    "model.layers.{i}.mlp.experts.up_proj": "blk.{i}.ffn_up_exps",
    "model.layers.{i}.mlp.experts.down_proj": "blk.{i}.ffn_down_exps",
}
GGUF_SANDWICH = GGUF_TENSORS | {
    "model.layers.{i}.post_attention_layernorm": "blk.{i}.post_attention_norm",
    "model.layers.{i}.pre_feedforward_layernorm": "blk.{i}.ffn_norm",
    "model.layers.{i}.post_feedforward_layernorm": "blk.{i}.post_ffw_norm",
}
PERMUTED = ("self_attn.q_proj", "self_attn.k_proj")


class Heads(NamedTuple):
    """Query heads, key and value heads, and their size."""

    num: int
    num_kv: int
    size: int


def heads(config: Config) -> Heads:
    num = config.size("num_attention_heads")
    size = config.size("head_dim", config.size("hidden_size") // num)
    return Heads(num, config.size("num_key_value_heads", num), size)


def attention(config: Config) -> Attention:
    """Grouped heads that turn, without departures."""
    num, num_kv, size = heads(config)
    return Attention(num, num_kv, size, read_rope(config, size), scale=size**-0.5)


def rms_norm(config: Config) -> RMSNorm:
    return RMSNorm(config.number("rms_norm_eps", 1e-6))


def layer_norm(config: Config, key: str) -> LayerNorm:
    return LayerNorm(config.number(key, 1e-5))


def activation(config: Config, key: str = "hidden_act", default: str = "silu") -> Activation:
    name = config.text(key, default)
    if name not in ACTIVATIONS:
        near = difflib.get_close_matches(name, ACTIVATIONS, n=1)
        hint = f"; the nearest is {near[0]}" if near else ""
        raise CompileError(f"{key} {name!r} is not supported, known: {', '.join(ACTIVATIONS)}{hint}")
    return ACTIVATIONS[name]


def gated(config: Config) -> Gated:
    return Gated(config.size("intermediate_size"), activation(config))


def windows(config: Config, slides: Callable[[int], bool]) -> tuple[int | None, ...]:
    """The window of each layer: of those that `layer_types` names, or else for which `slides` holds.

    A window as long as the context is none.
    """
    count, window = config.size("num_hidden_layers"), None
    if "sliding_window" in config and config.size("sliding_window") < config.size("max_position_embeddings"):
        window = config.size("sliding_window")
    if "layer_types" not in config:
        return tuple(window if slides(i) else None for i in range(count))
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types(config))


def layer_types(config: Config) -> tuple[str, ...]:
    kinds = config.texts("layer_types", config.size("num_hidden_layers"))
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown:
        raise CompileError(f"layer_types must be sliding_attention or full_attention, got {sorted(unknown)}")
    return kinds


def windowed(plain: Attention, each: Iterable[int | None]) -> list[Attention]:
    return [replace(plain, window=window) for window in each]


def assemble(config: Config, has: Has, layers: Iterable[AnyLayer], norm: RMSNorm | LayerNorm) -> Decoder:
    return Decoder(
        vocab_size=config.size("vocab_size"),
        hidden_size=config.size("hidden_size"),
        context_length=config.size("max_position_embeddings"),
        layers=tuple(layers),
        norm=norm,
        tied=not has("lm_head.weight"),
    )
