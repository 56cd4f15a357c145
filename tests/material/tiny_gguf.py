"""The tiny models as GGUF files: what llama.cpp's converter writes of each family, and nothing else.

Names of tensors come from the table of the package `gguf`; nothing here is shared with the compiler.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from tiny_models import VOCAB, Described, Weights, token_texts

Values = dict[str, Any]
ARCH = gguf.MODEL_ARCH


class Family(NamedTuple):
    """`tensors`: how the weights of Hugging Face become those of GGUF. `metadata`: what is said beside the usual."""

    arch: gguf.MODEL_ARCH
    tensors: Callable[[Weights, Values], Weights]
    metadata: Callable[[gguf.GGUFWriter, Values], None]
    usual: bool = True


def write_gguf(model: Described, path: Path, change: Callable[[Weights], Weights] = dict) -> Path:
    """`change`: of the tensors, under their names in the file."""
    config = model.config | {"head_size": head_size(model.config)}
    family = FAMILIES[model.kind]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.arch])
    if family.usual:
        add_usual(writer, config)
    family.metadata(writer, config)
    add_tokenizer(writer)
    names = gguf.get_tensor_name_map(family.arch, config["num_hidden_layers"])
    weights = family.tensors(model.weights(), config)
    stored = {names.get_name(name, (".weight", ".bias")) or name: values for name, values in weights.items()}
    for name, values in change(stored).items():
        writer.add_tensor(name, np.ascontiguousarray(values.squeeze(), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def head_size(config: Values) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def add_usual(writer: gguf.GGUFWriter, config: Values) -> None:
    add_sizes(writer, config)
    rope = config["rope_parameters"]
    add_rope(writer, rope.get("full_attention", rope))
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "norm_epsilon" in config:
        writer.add_layer_norm_eps(config["norm_epsilon"])
    if experts := config.get("num_local_experts", config.get("num_experts")):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if config.get("head_dim") is not None:
        add_head_size(writer, config)


def add_sizes(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])


def add_head_size(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_key_length(config["head_size"])
    writer.add_value_length(config["head_size"])


def add_rope(writer: gguf.GGUFWriter, rope: Values) -> None:
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "attention_factor" in rope:
            writer.add_rope_scaling_yarn_attn_factor(rope["attention_factor"])
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(token_texts())
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (VOCAB - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(value=False)


def as_they_are(weights: Weights, config: Values) -> Weights:
    return weights


def nothing_more(writer: gguf.GGUFWriter, config: Values) -> None:
    pass


def paired(weights: Weights, config: Values) -> Weights:
    """Rows of queries and keys in pairs that turn together."""
    return {
        name: _pairs(values, config["head_size"]) if re.search(r"\.[qk]_proj\.", name) else values
        for name, values in weights.items()
    } | _frequency_factors(config)


def _pairs(rows: np.ndarray, head_size: int) -> np.ndarray:
    return rows.reshape(-1, 2, head_size // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _frequency_factors(config: Values) -> Weights:
    """Llama 3's scaling, as a divisor of each frequency."""
    rope = config["rope_parameters"]
    if rope["rope_type"] != "llama3":
        return {}
    size, low, high = config["head_size"], rope["low_freq_factor"], rope["high_freq_factor"]
    lengths = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, size, 2) / size)
    turns = rope["original_max_position_embeddings"] / lengths
    smooth = (turns - low) / (high - low)
    blended = 1 / ((1 - smooth) / rope["factor"] + smooth)
    factors = np.where(turns > high, 1, np.where(turns < low, rope["factor"], blended))
    return {"rope_freqs.weight": factors.astype(np.float32)}


def add_llama(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(config["head_size"])


def together(weights: Weights, config: Values) -> Weights:
    """The experts of a layer in one tensor for each projection, behind the names that the table knows."""
    joined: dict[str, list[np.ndarray]] = {}
    for name, values in weights.items():
        joined.setdefault(re.sub(r"\.experts\.\d+\.", ".experts.", name), []).append(values)
    return {
        name.replace("model.layers", "layers").replace("block_sparse_moe.experts", "feed_forward.experts")
        if "block_sparse_moe.experts" in name
        else name: np.stack(parts) if ".experts." in name else parts[0]
        for name, parts in joined.items()
    }


def mixtral(weights: Weights, config: Values) -> Weights:
    return together(paired(weights, config), config)


def raised(weights: Weights, config: Values) -> Weights:
    return {name: values + 1 if name.endswith("norm.weight") else values for name, values in weights.items()}


def add_gemma(writer: gguf.GGUFWriter, config: Values) -> None:
    add_sizes(writer, config)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    add_head_size(writer, config)


def add_gemma2(writer: gguf.GGUFWriter, config: Values) -> None:
    add_gemma(writer, config)
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])


def add_window(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_sliding_window(config["sliding_window"])


def _num_turning(config: Values) -> int:
    share = config["rope_parameters"].get("partial_rotary_factor", 1.0)
    return int(share * config["hidden_size"]) // config["num_attention_heads"]


def add_phi2(writer: gguf.GGUFWriter, config: Values) -> None:
    """The base of its frequencies is left out."""
    add_sizes(writer, config)
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_rope_dimension_count(_num_turning(config))


def add_phi3(writer: gguf.GGUFWriter, config: Values) -> None:
    """A window of 0 is none; the type of scaling is not said."""
    add_sizes(writer, config)
    rope = config["rope_parameters"]
    original = config["original_max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(_num_turning(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_sliding_window(config["sliding_window"] or 0)
    if "long_factor" in rope:
        longer = config["max_position_embeddings"] / original
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(longer) / math.log(original)))


def phi3(weights: Weights, config: Values) -> Weights:
    rope = config["rope_parameters"]
    kinds = ("long", "short") if "long_factor" in rope else ()
    return weights | {f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"], np.float32) for kind in kinds}


def add_experts(writer: gguf.GGUFWriter, config: Values) -> None:
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def add_granite(writer: gguf.GGUFWriter, config: Values) -> None:
    add_llama(writer, config)
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])


def gpt_oss(weights: Weights, config: Values) -> Weights:
    return dict(part for name, values in weights.items() for part in _gpt_oss(name, values))


def _gpt_oss(name: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    name, kind = (name.removesuffix("_bias"), ".bias") if name.endswith("_bias") else (name, ".weight")
    if name.endswith("sinks"):
        yield f"{name}.weight", values
    elif name.endswith("experts.down_proj"):
        yield f"{name}{kind}", values if kind == ".bias" else values.swapaxes(1, 2)
    elif name.endswith("experts.gate_up_proj"):
        for i, part in enumerate(("gate_proj", "up_proj")):
            own = values[..., i::2]
            yield f"{name.replace('gate_up_proj', part)}{kind}", own if kind == ".bias" else own.swapaxes(1, 2)
    else:
        yield name, values


def add_gpt_oss(writer: gguf.GGUFWriter, config: Values) -> None:
    add_window(writer, config)
    writer.add_expert_feed_forward_length(config["intermediate_size"])


FAMILIES = {
    "Llama": Family(ARCH.LLAMA, paired, add_llama),
    "Mistral": Family(ARCH.LLAMA, paired, add_llama),
    "Mixtral": Family(ARCH.LLAMA, mixtral, add_llama),
    "SmolLM3": Family(ARCH.SMOLLM3, paired, add_llama),
    "Granite": Family(ARCH.GRANITE, paired, add_granite),
    "Gemma": Family(ARCH.GEMMA, raised, add_gemma, usual=False),
    "Gemma2": Family(ARCH.GEMMA2, raised, add_gemma2, usual=False),
    "Gemma3": Family(ARCH.GEMMA3, raised, add_window),
    "Phi": Family(ARCH.PHI2, as_they_are, add_phi2, usual=False),
    "Phi3": Family(ARCH.PHI3, phi3, add_phi3, usual=False),
    "Qwen2": Family(ARCH.QWEN2, as_they_are, nothing_more),
    "Qwen3": Family(ARCH.QWEN3, as_they_are, nothing_more),
    "Qwen2Moe": Family(ARCH.QWEN2MOE, together, add_experts),
    "Qwen3Moe": Family(ARCH.QWEN3MOE, together, add_experts),
    "Starcoder2": Family(ARCH.STARCODER2, as_they_are, nothing_more),
    "Olmo2": Family(ARCH.OLMO2, as_they_are, nothing_more),
    "GptOss": Family(ARCH.GPT_OSS, gpt_oss, add_gpt_oss),
}
