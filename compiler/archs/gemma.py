"""Gemma 1, 2 and 3 (text): scaled embeddings, norms stored less 1, from the second on norms around each block."""

from __future__ import annotations

from dataclasses import replace

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.compiler.positions import plain_rope
from mistralrs_onnx.graphs.attention import Attention, HeadNorm
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.layer import AnyLayer, Layer, Sandwich
from mistralrs_onnx.graphs.mlp import Gated

from .arch import Arch, Has
from .parts import GGUF_SANDWICH, GGUF_TENSORS, activation, assemble, attention, heads, rms_norm, windowed, windows

NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    "model.norm",
    "q_norm",
    "k_norm",
)
HF_NAMING = Naming(raised=NORMS)
SOFTCAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}


def mlp(config: Config) -> Gated:
    key = "hidden_activation" if "hidden_activation" in config else "hidden_act"
    kind = activation(config, key, "gelu_pytorch_tanh")
    # The first configs said gelu and meant its approximation.
    return Gated(config.size("intermediate_size"), "gelu_tanh" if kind == "gelu" else kind)


def finished(config: Config, has: Has, layers: list[AnyLayer]) -> Decoder:
    plain = assemble(config, has, layers, rms_norm(config))
    return replace(plain, embedding_scale=config.size("hidden_size") ** 0.5)


def gemma(config: Config, has: Has) -> Decoder:
    layer = Layer(attention(config), mlp(config), rms_norm(config))
    return finished(config, has, [layer] * config.size("num_hidden_layers"))


def scaled(config: Config, plain: Attention) -> Attention:
    """The largest Gemma 2 and 3 divide scores by the width of a head's share; GGUF files do not say so."""
    share = config.size("hidden_size") // heads(config).num
    known = share if "query_pre_attn_scalar" not in config and (config.size("num_hidden_layers") in (46, 62)) else None
    return replace(plain, scale=config.number("query_pre_attn_scalar", known or plain.head_size) ** -0.5)


def gemma2(config: Config, has: Has) -> Decoder:
    plain = scaled(config, attention(config))
    if "attn_logit_softcapping" in config:
        plain = replace(plain, softcap=config.number("attn_logit_softcapping"))
    each = windowed(plain, windows(config, lambda i: i % 2 == 0))
    layers: list[AnyLayer] = [Sandwich(one, mlp(config), rms_norm(config)) for one in each]
    cap = config.number("final_logit_softcapping") if "final_logit_softcapping" in config else None
    return replace(finished(config, has, layers), logits_softcap=cap)


def gemma3(config: Config, has: Has) -> Decoder:
    """Layers with a window turn at a base of their own, without scaling."""
    plain = replace(scaled(config, attention(config)), norm=HeadNorm(rms_norm(config)))
    pattern = config.size("sliding_window_pattern", 6)
    local = replace(plain, rope=plain_rope(config.number("rope_local_base_freq", 10000.0), plain.head_size))
    is_local = _local_layers(config, pattern)
    each = windows(config, lambda i: is_local[i])
    layers: list[AnyLayer] = [
        Sandwich(replace(local if is_local[i] else plain, window=window), mlp(config), rms_norm(config))
        for i, window in enumerate(each)
    ]
    cap = config.number("final_logit_softcapping") if "final_logit_softcapping" in config else None
    return replace(finished(config, has, layers), logits_softcap=cap)


def _local_layers(config: Config, pattern: int) -> list[bool]:
    count = config.size("num_hidden_layers")
    if "layer_types" in config:
        return [kind == "sliding_attention" for kind in config.texts("layer_types", count)]
    return [(i + 1) % pattern != 0 for i in range(count)]


GEMMA = Arch("gemma", ("GemmaForCausalLM",), ("gemma",), gemma, HF_NAMING, Naming(GGUF_TENSORS))
GEMMA2 = Arch("gemma2", ("Gemma2ForCausalLM",), ("gemma2",), gemma2, HF_NAMING, Naming(GGUF_SANDWICH), SOFTCAPS)
GEMMA3 = Arch("gemma3", ("Gemma3ForCausalLM",), ("gemma3",), gemma3, HF_NAMING, Naming(GGUF_SANDWICH), SOFTCAPS)
