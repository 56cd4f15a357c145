"""gpt-oss: attention with sinks and alternating windows, clamped experts with biases."""

from __future__ import annotations

from dataclasses import replace

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.layer import Layer
from mistralrs_onnx.graphs.moe import ClampedGated, MoE

from .arch import Arch, Has
from .parts import GGUF_TENSORS, assemble, attention, rms_norm, windowed, windows

LIMIT, SLOPE = 7.0, 1.702
GATE_UP = ("gate_proj", "up_proj")
BARE = {
    "self_attn.sinks.weight": "self_attn.sinks",
    "mlp.experts.gate_up_proj.weight": "mlp.experts.gate_up_proj",
    "mlp.experts.gate_up_proj.bias": "mlp.experts.gate_up_proj_bias",
    "mlp.experts.down_proj.weight": "mlp.experts.down_proj",
    "mlp.experts.down_proj.bias": "mlp.experts.down_proj_bias",
}
HF_NAMING = Naming(
    {"model.layers.{i}.mlp.gate": "model.layers.{i}.mlp.router"}
    | {f"model.layers.{{i}}.{name}": f"model.layers.{{i}}.{stored}" for name, stored in BARE.items()},
    interleaved={"gate_up_proj": GATE_UP},
    transposed=("gate_proj", "up_proj", "down_proj"),
)
GGUF = {
    "model.layers.{i}.self_attn.sinks": "blk.{i}.attn_sinks",
    "model.layers.{i}.post_attention_layernorm": "blk.{i}.post_attention_norm",
}


def decoder(config: Config, has: Has) -> Decoder:
    # GGUF files cannot say that the ramp between scaled and unscaled frequencies keeps its fractions.
    config = Config({**config.values, "rope_scaling": {"truncate": False} | dict(config.part("rope_scaling").values)})
    norm = rms_norm(config)
    expert = ClampedGated(config.size("intermediate_size"), config.number("swiglu_limit", LIMIT), SLOPE)
    moe = MoE(config.size("num_local_experts"), config.size("num_experts_per_tok"), expert)
    sunk = replace(attention(config), sinks=True)
    each = windowed(sunk, windows(config, lambda i: i % 2 == 0))
    return assemble(config, has, (Layer(one, moe, norm) for one in each), norm)


GPT_OSS = Arch(
    "gpt_oss",
    hf=("GptOssForCausalLM",),
    gguf=("gpt-oss",),
    decoder=decoder,
    hf_naming=HF_NAMING,
    gguf_naming=Naming(GGUF_TENSORS | GGUF),
)
