"""Phi-2: one norm for attention and feed-forward block, biases, part of each head turns. Phi-3 and 4: fused Llamas."""

from __future__ import annotations

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.layer import Parallel
from mistralrs_onnx.graphs.mlp import Plain

from . import llama
from .arch import Arch, Has
from .parts import GGUF_TENSORS, activation, assemble, attention, layer_norm

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
PHI2_TENSORS = {
    "model.norm": "model.final_layernorm",
    "model.layers.{i}.self_attn.o_proj": "model.layers.{i}.self_attn.dense",
    "model.layers.{i}.mlp.up_proj": "model.layers.{i}.mlp.fc1",
    "model.layers.{i}.mlp.down_proj": "model.layers.{i}.mlp.fc2",
}
FUSED = {"self_attn.qkv_proj": QKV, "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj")}
GGUF_QKV = {"model.layers.{i}.self_attn.qkv_proj": "blk.{i}.attn_qkv"}
GGUF_GATE_UP = {"model.layers.{i}.mlp.gate_up_proj": "blk.{i}.ffn_up"}
PHI3_GGUF = {key: name for key, name in GGUF_TENSORS.items() if not key.endswith(".up_proj")} | GGUF_QKV | GGUF_GATE_UP
FACTORS = ("rope_factors_long.weight", "rope_factors_short.weight")


def phi2(config: Config, has: Has) -> Decoder:
    if config.flag("qk_layernorm", default=False):
        raise CompileError("Phi with qk_layernorm is not supported: no released model has it")
    norm = layer_norm(config, "layer_norm_eps")
    mlp = Plain(config.size("intermediate_size"), activation(config, default="gelu_new"))
    turning = Config({"partial_rotary_factor": 0.5} | dict(config.values))
    layer = Parallel(attention(turning), mlp, norm)
    return assemble(config, has, [layer] * config.size("num_hidden_layers"), norm)


PHI2 = Arch(
    "phi2",
    hf=("PhiForCausalLM",),
    gguf=("phi2",),
    decoder=phi2,
    hf_naming=Naming(PHI2_TENSORS),
    gguf_naming=Naming(GGUF_TENSORS | GGUF_QKV, fused={"self_attn.qkv_proj": QKV}),
)
PHI3 = Arch(
    "phi3",
    hf=("Phi3ForCausalLM",),
    gguf=("phi3",),
    decoder=llama.decoder,
    hf_naming=Naming(fused=FUSED),
    gguf_naming=Naming(PHI3_GGUF, fused=FUSED, ignored=(*Naming().ignored, *FACTORS)),
)
