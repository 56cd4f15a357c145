"""Mixtral: Mistral with a mixture of experts. GGUF files call it llama, with experts."""

from __future__ import annotations

from dataclasses import replace

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.moe import MoE

from . import llama
from .arch import Arch, Has
from .parts import GGUF_TENSORS, PERMUTED, gated

EXPERT = "model.layers.{i}.mlp.experts.{e}."
STORED = "model.layers.{i}.block_sparse_moe."
HF_TENSORS = {
    "model.layers.{i}.mlp.gate": f"{STORED}gate",
    f"{EXPERT}gate_proj": f"{STORED}experts.{{e}}.w1",
    f"{EXPERT}down_proj": f"{STORED}experts.{{e}}.w2",
    f"{EXPERT}up_proj": f"{STORED}experts.{{e}}.w3",
}
# Before experts were stored in one tensor, each had three of its own.
OLD_GGUF = {f"{EXPERT}{part}_proj": f"blk.{{i}}.ffn_{part}.{{e}}" for part in ("gate", "up", "down")}


def decoder(config: Config, has: Has) -> Decoder:
    plain = llama.decoder(config, has)
    moe = MoE(config.size("num_local_experts"), config.size("num_experts_per_tok"), gated(config))
    return replace(plain, layers=tuple(replace(layer, mlp=moe) for layer in plain.layers))


MIXTRAL = Arch(
    "mixtral",
    hf=("MixtralForCausalLM",),
    gguf=("mixtral",),
    decoder=decoder,
    hf_naming=Naming(HF_TENSORS),
    gguf_naming=Naming(GGUF_TENSORS | OLD_GGUF, permuted=PERMUTED),
)
