"""Tiny models of every architecture: their configs, and folders of them as Hugging Face lays them out.

Weights are numbers that numpy draws from their names, so that a test needs only the shapes to have the same model.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

Weights = dict[str, NDArray[np.float32]]

VOCAB = 96
IDS = np.random.default_rng(0).integers(2, VOCAB, 21).tolist()
PROMPT = 13  # the rest is decoded, eight steps
NUM_KEPT = len(IDS) - PROMPT + 1  # positions whose logits a test with decode steps sees
TOLERANCE = 1e-4  # of the largest logit: float32 sums in other orders

BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
WINDOW = {"sliding_window": 8}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


class Tiny(NamedTuple):
    """`kind`: the class of transformers, without its endings. `changes`: of the config.

    `not_in_gguf`: why GGUF files cannot say what this one is, if they cannot.
    """

    kind: str
    changes: dict[str, Any]
    not_in_gguf: str = ""

    @property
    def config(self) -> dict[str, Any]:
        return BASE | self.changes


def rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


LONG = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
ORIGINAL = {"original_max_position_embeddings": 64}
LONGER = {"max_position_embeddings": 1024, "original_max_position_embeddings": 512}
TIED = {"tie_word_embeddings": True}
NO_SCALE = "the scale of attention is always that of the head size"
NO_WINDOW = "there is no key for its window"

TINY = {
    "llama": Tiny("Llama", {}),
    "llama-tied": Tiny("Llama", TIED),
    "llama-mha": Tiny("Llama", {"num_key_value_heads": 4}),
    "llama-one-kv-head": Tiny("Llama", {"num_key_value_heads": 1}),
    "llama-biases": Tiny("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-24": Tiny("Llama", {"head_dim": 24}),
    "llama-head-20": Tiny("Llama", {"head_dim": 20}),
    "llama-head-10": Tiny(
        "Llama", {"head_dim": 10, "hidden_size": 60, "num_attention_heads": 6, "num_key_value_heads": 3}
    ),
    "llama-linear": Tiny("Llama", rope("linear", factor=4.0)),
    "llama-3.1": Tiny("Llama", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **ORIGINAL)),
    "llama-yarn": Tiny("Llama", rope("yarn", factor=4.0, **ORIGINAL)),
    "llama-yarn-betas": Tiny(
        "Llama", rope("yarn", factor=4.0, beta_fast=8.0, beta_slow=2.0, attention_factor=1.3, **ORIGINAL)
    ),
    "mistral-v0.1": Tiny("Mistral", WINDOW, NO_WINDOW),
    "mistral-v0.2": Tiny("Mistral", {"sliding_window": None, "head_dim": 32}),
    "mixtral": Tiny("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "gemma": Tiny("Gemma", {"head_dim": 32, "num_key_value_heads": 1} | TIED),
    "gemma2": Tiny("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 32} | TIED | WINDOW),
    "gemma2-scaled": Tiny("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 20} | TIED | WINDOW, NO_SCALE),
    "gemma3": Tiny("Gemma3", {"head_dim": 32, "num_hidden_layers": 7, "query_pre_attn_scalar": 32} | TIED | WINDOW),
    "gemma3-scaled": Tiny(
        "Gemma3",
        {"head_dim": 32, "query_pre_attn_scalar": 20, "final_logit_softcapping": 3.0} | TIED | WINDOW,
        NO_SCALE,
    ),
    "phi2": Tiny(
        "Phi",
        {"partial_rotary_factor": 0.5, "num_key_value_heads": 4, "layer_norm_eps": 1e-5, "intermediate_size": 256},
    ),
    "phi2-odd": Tiny(
        "Phi",
        {"partial_rotary_factor": 0.4, "hidden_size": 80, "num_key_value_heads": 4, "intermediate_size": 320},
    ),
    "phi3-4k": Tiny("Phi3", WINDOW),
    "phi3-128k-short": Tiny("Phi3", {**LONGER, **rope("longrope", **LONG)}),
    "phi3-128k-long": Tiny("Phi3", {"original_max_position_embeddings": 12, **rope("longrope", **LONG)}),
    "phi4-mini": Tiny(
        "Phi3",
        {"hidden_size": 96, "sliding_window": None}
        | rope("longrope", partial_rotary_factor=2 / 3, **LONG)
        | LONGER
        | TIED,
    ),
    "qwen2": Tiny("Qwen2", {}),
    "qwen2-window": Tiny("Qwen2", {"use_sliding_window": True, "max_window_layers": 1} | WINDOW, NO_WINDOW),
    "qwen2-moe": Tiny("Qwen2Moe", MOE | {"shared_expert_intermediate_size": 48, "norm_topk_prob": False}),
    "qwen3": Tiny("Qwen3", {"head_dim": 32}),
    "qwen3-moe": Tiny("Qwen3Moe", MOE | {"head_dim": 32, "norm_topk_prob": True}),
    "smollm3": Tiny("SmolLM3", {"num_hidden_layers": 5}),
    "starcoder2": Tiny("Starcoder2", {"sliding_window": None, "use_bias": True}),
    "starcoder2-window": Tiny("Starcoder2", WINDOW | {"use_bias": True}, NO_WINDOW),
    "olmo2": Tiny("Olmo2", {}),
    "granite": Tiny(
        "Granite",
        {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.1,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
        },
    ),
    "gpt-oss": Tiny(
        "GptOss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32}
        | WINDOW
        | rope("yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=False, **ORIGINAL),
    ),
}


class Described(NamedTuple):
    """A model but for its weights: its config as transformers saves it, and the shape of each tensor."""

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    @property
    def kind(self) -> str:
        name: str = self.config["architectures"][0]
        return name.removesuffix("ForCausalLM")

    def weights(self) -> Weights:
        """Logits come out of order 1; norms are around 1, or 0 where they are stored less 1."""
        center = 0.0 if self.kind.startswith("Gemma") else 1.0
        return {name: _values(name, shape, center) for name, shape in self.shapes.items()}


def _values(name: str, shape: tuple[int, ...], center: float) -> NDArray[np.float32]:
    is_norm = "norm" in name and name.endswith("weight")
    spread = 0.1 if is_norm or "bias" in name else 0.15
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return (spread * drawn + center * is_norm).astype(np.float32)


def write_folder(model: Described, folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """`changes`: of the config, after the weights are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.weights(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config | dict(changes or {})), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def token_texts() -> list[str]:
    """Two special tokens, letters, and one token of two letters, so that there is something to merge."""
    return ["<0>", "<1>", *(chr(31 + i) for i in range(2, VOCAB - 1)), "ab"]


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(token_texts())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<0>", "<1>"])
    tokenizer.save(str(folder / "tokenizer.json"))
