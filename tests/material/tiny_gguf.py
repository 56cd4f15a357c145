"""The tiny models as GGUF files, written as converters do: names and keys are those of the package gguf, not ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tiny_models import Described, token_texts

Array = NDArray[np.float32]
ARCHS = {
    "Llama": "llama",
    "Mistral": "llama",
    "Mixtral": "llama",
    "Gemma": "gemma",
    "Gemma2": "gemma2",
    "Gemma3": "gemma3",
    "Phi": "phi2",
    "Phi3": "phi3",
    "Qwen2": "qwen2",
    "Qwen2Moe": "qwen2moe",
    "Qwen3": "qwen3",
    "Qwen3Moe": "qwen3moe",
    "SmolLM3": "smollm3",
    "Starcoder2": "starcoder2",
    "Olmo2": "olmo2",
    "Granite": "granite",
    "GptOss": "gpt-oss",
}
PERMUTED = ("Llama", "Mistral", "Mixtral", "SmolLM3", "Granite")
EXPERT = re.compile(r"(model\.layers\.\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
EXPERT_PARTS = {"w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "down_proj": "down", "up_proj": "up"}


def write_gguf(model: Described, path: Path) -> Path:
    writer = gguf.GGUFWriter(str(path), ARCHS[model.kind])
    _add_config(writer, model)
    _add_tokens(writer)
    for name, values in tensors(model).items():
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(model: Described) -> dict[str, Array]:
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[ARCHS[model.kind]], model.config["num_hidden_layers"])
    found: dict[str, Array] = {}
    experts: dict[tuple[str, str], dict[int, Array]] = {}
    for name, values in model.weights().items():
        if match := EXPERT.fullmatch(name):
            experts.setdefault((match[1], EXPERT_PARTS[match[3]]), {})[int(match[2])] = values
            continue
        for stored, array in _converted(model, name, values):
            target = stored if stored.startswith("blk.") else names.get_name(stored, (".weight", ".bias"))
            assert target is not None, f"the package gguf has no name for {stored} of {model.kind}"
            found[target] = array
    for (layer, part), each in experts.items():
        number = layer.rpartition(".")[2]
        found[f"blk.{number}.ffn_{part}_exps.weight"] = np.stack([each[i] for i in sorted(each)])
    return found | _rope_tensors(model.config)


def _converted(model: Described, name: str, values: Array) -> Iterator[tuple[str, Array]]:
    """What a converter makes of one tensor."""
    config, kind = model.config, model.kind
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    block = f"blk.{layer[1]}" if layer else ""
    if kind.startswith("Gemma") and name.endswith("norm.weight"):
        yield name, values + 1
    elif kind in PERMUTED and ".q_proj." in name:
        yield name, _adjacent(values, config["num_attention_heads"])
    elif kind in PERMUTED and ".k_proj." in name:
        yield name, _adjacent(values, config["num_key_value_heads"])
    elif kind == "GptOss" and ".experts." in name:
        yield from _gpt_oss(block, name.rpartition(".")[2], values)
    elif name.endswith("shared_expert_gate.weight"):
        yield name, values[0]
    elif name.endswith("self_attn.sinks"):
        yield f"{block}.attn_sinks.weight", values
    else:
        yield name, values


def _gpt_oss(block: str, part: str, values: Array) -> Iterator[tuple[str, Array]]:
    kind = "bias" if part.endswith("bias") else "weight"
    rows = values if kind == "bias" else values.swapaxes(1, 2)
    if part.startswith("down"):
        yield f"{block}.ffn_down_exps.{kind}", rows
    else:
        yield f"{block}.ffn_gate_exps.{kind}", rows[:, 0::2]
        yield f"{block}.ffn_up_exps.{kind}", rows[:, 1::2]


def _adjacent(values: Array, heads: int) -> Array:
    """Rows i and i + half of a head become neighbours."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _rope_tensors(config: dict[str, Any]) -> dict[str, Array]:
    scaling = config["rope_parameters"]
    if scaling.get("rope_type") == "longrope":
        names = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
        return {name: np.array(scaling[key], np.float32) for name, key in names.items()}
    if scaling.get("rope_type") != "llama3":
        return {}
    wavelengths = 2 * np.pi * scaling["rope_theta"] ** (np.arange(0, _head_size(config), 2) / _head_size(config))
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    smooth = (scaling["original_max_position_embeddings"] / wavelengths - low) / (high - low)
    blended = 1 / ((1 - np.clip(smooth, 0, 1)) / factor + np.clip(smooth, 0, 1))
    return {"rope_freqs.weight": blended.astype(np.float32)}


def _head_size(config: dict[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _add_config(writer: gguf.GGUFWriter, model: Described) -> None:
    config = model.config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for key in ("layer_norm_eps", "norm_epsilon"):
        if key in config:
            writer.add_layer_norm_eps(config[key])
    if config.get("sliding_window") and model.kind in ("Gemma2", "Gemma3", "Phi3", "GptOss"):
        writer.add_sliding_window(config["sliding_window"])
    if model.kind == "Gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    _add_rope(writer, config)
    _add_experts(writer, config)
    if model.kind == "Granite":
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])


def _add_rope(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    scaling = config["rope_parameters"]
    scaling = scaling.get("full_attention", scaling)
    writer.add_rope_freq_base(scaling["rope_theta"])
    partial = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    writer.add_rope_dimension_count(int(_head_size(config) * partial))
    kind = scaling.get("rope_type", "default")
    original = scaling.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR if kind == "linear" else gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn" and "beta_fast" in scaling:
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
    if kind in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(original)
    if kind == "longrope":
        factor = config["max_position_embeddings"] / original
        writer.add_rope_scaling_attn_factors(np.sqrt(1 + np.log(factor) / np.log(original)))


def _add_experts(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    count = config.get("num_local_experts") or config.get("num_experts")
    if not count:
        return
    writer.add_expert_count(count)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config or config["model_type"] == "gpt_oss":
        writer.add_expert_feed_forward_length(config.get("moe_intermediate_size") or config["intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _add_tokens(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(token_texts())
    writer.add_token_types([3, 3] + [1] * (len(token_texts()) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
