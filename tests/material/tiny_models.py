"""Tiny random models of every architecture, as transformers makes them, in folders as Hugging Face lays them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models, pre_tokenizers

VOCAB = 96
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
    """`kind`: the class of transformers, without its endings. `changes`: of the config."""

    kind: str
    changes: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return BASE | self.changes


def rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


LONG = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
ORIGINAL = {"original_max_position_embeddings": 64}

TINY = {
    "llama": Tiny("Llama", {}),
    "llama-tied": Tiny("Llama", {"tie_word_embeddings": True}),
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
    "mistral-v0.1": Tiny("Mistral", WINDOW),
    "mistral-v0.2": Tiny("Mistral", {"sliding_window": None, "head_dim": 32}),
    "mixtral": Tiny("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "gemma": Tiny("Gemma", {"head_dim": 32, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "gemma2": Tiny("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 20, "tie_word_embeddings": True} | WINDOW),
    "gemma3": Tiny(
        "Gemma3",
        {"head_dim": 32, "num_hidden_layers": 7, "query_pre_attn_scalar": 20, "tie_word_embeddings": True} | WINDOW,
    ),
    "phi2": Tiny("Phi", {"partial_rotary_factor": 0.5, "num_key_value_heads": 4, "layer_norm_eps": 1e-5}),
    "phi2-odd": Tiny("Phi", {"partial_rotary_factor": 0.4, "hidden_size": 80, "num_key_value_heads": 4}),
    "phi3-4k": Tiny("Phi3", WINDOW),
    "phi3-128k-short": Tiny("Phi3", {**ORIGINAL, **rope("longrope", **LONG)}),
    "phi3-128k-long": Tiny("Phi3", {"original_max_position_embeddings": 12, **rope("longrope", **LONG)}),
    "phi4-mini": Tiny(
        "Phi3",
        {"tie_word_embeddings": True, "hidden_size": 96, "sliding_window": None}
        | rope("longrope", partial_rotary_factor=2 / 3, **LONG)
        | ORIGINAL,
    ),
    "qwen2": Tiny("Qwen2", {}),
    "qwen2-window": Tiny("Qwen2", {"use_sliding_window": True, "max_window_layers": 1} | WINDOW),
    "qwen2-moe": Tiny("Qwen2Moe", MOE | {"shared_expert_intermediate_size": 48, "norm_topk_prob": False}),
    "qwen3": Tiny("Qwen3", {"head_dim": 32}),
    "qwen3-moe": Tiny("Qwen3Moe", MOE | {"head_dim": 32, "norm_topk_prob": True}),
    "smollm3": Tiny("SmolLM3", {"num_hidden_layers": 5}),
    "starcoder2": Tiny("Starcoder2", WINDOW | {"use_bias": True}),
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
        | rope("yarn", factor=4.0, **ORIGINAL),
    ),
}


def make_model(tiny: Tiny) -> Any:
    """The model in float32, every parameter random, norms around 1."""
    import torch
    import transformers

    config = getattr(transformers, f"{tiny.kind}{'Text' if tiny.kind == 'Gemma3' else ''}Config")(**tiny.config)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, f"{tiny.kind}ForCausalLM")(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = torch.randn_like(parameter) * (0.1 if "norm" in name or "bias" in name else 0.15)
            parameter.copy_(spread + (parameter if "norm" in name else 0))
    return model


def write_folder(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE({f"<{i}>" if i < 2 else chr(31 + i): i for i in range(VOCAB)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<0>", "<1>"])
    tokenizer.save(str(folder / "tokenizer.json"))
