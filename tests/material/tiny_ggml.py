"""Tiny llamas as ggjt files, as converters wrote them before GGUF: heads of queries and keys are interleaved."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tiny_models import Described

PARTS = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}
TOKENS = ["⁇".encode(), b"", b"", *(bytes([byte]) for byte in range(256))]
EPSILON = 1e-5  # of norms: such files do not say


def write_ggml(model: Described, path: Path) -> Path:
    """In float32, version 3. Llama's vocabulary is larger: tables have rows of zeros for the rest of it."""
    config = model.config
    hidden, heads, layers = (config[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    head_size = hidden // heads
    hparams = (len(TOKENS), hidden, 32, heads, layers, head_size, 0)
    content = struct.pack("<9I", 0x67676A74, 3, *hparams)
    content += b"".join(struct.pack("<I", len(word)) + word + struct.pack("<f", 0) for word in TOKENS)
    for name, values in model.weights().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = interleaved(values, head_size)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            values = np.pad(values, ((0, len(TOKENS) - len(values)), (0, 0)))
        stored, dims = stored_name(name).encode(), values.shape[::-1]
        content += struct.pack(f"<{3 + len(dims)}I", len(dims), len(stored), 0, *dims) + stored
        content += bytes(-len(content) % 32) + np.ascontiguousarray(values, np.float32).tobytes()
    path.write_bytes(content)
    return path


def interleaved(values: NDArray[np.float32], head_size: int) -> NDArray[np.float32]:
    """Rows of a head (N, K): those of its halves in turn."""
    return values.reshape(-1, 2, head_size // 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def stored_name(name: str) -> str:
    tops = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
    module = name.removesuffix(".weight")
    if module in tops:
        return f"{tops[module]}.weight"
    number, _, part = module.removeprefix("model.layers.").partition(".")
    return f"layers.{number}.{PARTS[part]}.weight"
