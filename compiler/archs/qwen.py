"""Qwen 2 (biases) and 3 (normed heads), with and without mixtures of experts."""

from __future__ import annotations

from dataclasses import replace

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.graphs.attention import HeadNorm
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.layer import Layer
from mistralrs_onnx.graphs.mlp import Gated
from mistralrs_onnx.graphs.moe import MoE, Softmax

from .arch import Arch, Has
from .parts import GGUF_TENSORS, activation, assemble, attention, gated, rms_norm, windowed, windows

GGUF_SHARED = {
    "model.layers.{i}.mlp.shared_expert_gate": "blk.{i}.ffn_gate_inp_shexp",
    "model.layers.{i}.mlp.shared_expert.gate_proj": "blk.{i}.ffn_gate_shexp",
    "model.layers.{i}.mlp.shared_expert.up_proj": "blk.{i}.ffn_up_shexp",
    "model.layers.{i}.mlp.shared_expert.down_proj": "blk.{i}.ffn_down_shexp",
}


def layers(config: Config) -> list[Layer]:
    first = config.size("max_window_layers", 28) if "max_window_layers" in config else 28
    if not config.flag("use_sliding_window", default=False):
        config = Config({**config.values, "sliding_window": None})
    each = windowed(attention(config), windows(config, lambda i: i >= first))
    norm = rms_norm(config)
    return [Layer(one, Gated(1, "silu"), norm) for one in each]


def qwen2(config: Config, has: Has) -> Decoder:
    mlp = gated(config)
    return assemble(config, has, (replace(layer, mlp=mlp) for layer in layers(config)), rms_norm(config))


def normed(layer: Layer) -> Layer:
    return replace(layer, attention=replace(layer.attention, norm=HeadNorm(layer.norm)))


def qwen3(config: Config, has: Has) -> Decoder:
    plain = qwen2(config, has)
    return replace(plain, layers=tuple(normed(layer) for layer in plain.layers if isinstance(layer, Layer)))


def qwen2_moe(config: Config, has: Has) -> Decoder:
    shared = Gated(config.size("shared_expert_intermediate_size"), activation(config))
    moe = replace(_moe(config, norm_topk=False), shared=shared)
    return assemble(config, has, (replace(layer, mlp=moe) for layer in layers(config)), rms_norm(config))


def qwen3_moe(config: Config, has: Has) -> Decoder:
    moe = _moe(config, norm_topk=True)
    return assemble(config, has, (replace(normed(layer), mlp=moe) for layer in layers(config)), rms_norm(config))


def _moe(config: Config, *, norm_topk: bool) -> MoE:
    """`norm_topk`: what holds where the config does not say: GGUF files never do."""
    if config.values.get("mlp_only_layers") or config.size("decoder_sparse_step", 1) != 1:
        raise CompileError("Qwen with dense layers among the sparse ones is not supported: no released model has them")
    softmax: Softmax = "chosen" if config.flag("norm_topk_prob", default=norm_topk) else "all"
    expert = Gated(config.size("moe_intermediate_size"), activation(config))
    count = config.size("num_experts" if "num_experts" in config else "num_local_experts")
    return MoE(count, config.size("num_experts_per_tok"), expert, softmax)


NAMING = Naming(GGUF_TENSORS)
QWEN2 = Arch("qwen2", ("Qwen2ForCausalLM",), ("qwen2",), qwen2, gguf_naming=NAMING)
QWEN3 = Arch("qwen3", ("Qwen3ForCausalLM",), ("qwen3",), qwen3, gguf_naming=NAMING)
QWEN2_MOE = Arch(
    "qwen2_moe",
    hf=("Qwen2MoeForCausalLM",),
    gguf=("qwen2moe",),
    decoder=qwen2_moe,
    gguf_naming=Naming(GGUF_TENSORS | GGUF_SHARED),
    gguf_config={"shared_expert_intermediate_size": "expert_shared_feed_forward_length"},
)
QWEN3_MOE = Arch("qwen3_moe", ("Qwen3MoeForCausalLM",), ("qwen3moe",), qwen3_moe, gguf_naming=NAMING)
