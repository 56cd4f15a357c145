"""Llama, and the families that kept its shape."""

from __future__ import annotations

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.graphs.attention import Attention, Rope
from mistralrs_onnx.graphs.decoder import Decoder, Layer
from mistralrs_onnx.graphs.mlp import Gated
from mistralrs_onnx.graphs.norm import RMSNorm
from mistralrs_onnx.graphs.weights import Weights
from mistralrs_onnx.ops.rope import inverse_frequencies

from .arch import Arch

GGUF_TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{i}.input_layernorm": "blk.{i}.attn_norm",
    "model.layers.{i}.self_attn.q_proj": "blk.{i}.attn_q",
    "model.layers.{i}.self_attn.k_proj": "blk.{i}.attn_k",
    "model.layers.{i}.self_attn.v_proj": "blk.{i}.attn_v",
    "model.layers.{i}.self_attn.o_proj": "blk.{i}.attn_output",
    "model.layers.{i}.post_attention_layernorm": "blk.{i}.ffn_norm",
    "model.layers.{i}.mlp.gate_proj": "blk.{i}.ffn_gate",
    "model.layers.{i}.mlp.up_proj": "blk.{i}.ffn_up",
    "model.layers.{i}.mlp.down_proj": "blk.{i}.ffn_down",
}


def decoder(config: Config, weights: Weights) -> Decoder:
    heads, hidden = config.size("num_attention_heads"), config.size("hidden_size")
    head_size = config.size("head_dim", hidden // heads)
    norm = RMSNorm(config.number("rms_norm_eps"))
    rope = Rope(tuple(inverse_frequencies(config.number("rope_theta", 10000.0), head_size).tolist()))
    kv_heads = config.size("num_key_value_heads", heads)
    layer = Layer(
        attention=Attention(heads, kv_heads, head_size, rope, scale=head_size**-0.5),
        mlp=Gated(config.size("intermediate_size"), "silu"),
        norm=norm,
    )
    return Decoder(
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden,
        context_length=config.size("max_position_embeddings"),
        layers=(layer,) * config.size("num_hidden_layers"),
        norm=norm,
        tied="lm_head.weight" not in weights,
    )


LLAMA = Arch(
    "llama",
    hf=("LlamaForCausalLM",),
    gguf=("llama",),
    decoder=decoder,
    gguf_tensors=GGUF_TENSORS,
    permuted=("self_attn.q_proj", "self_attn.k_proj"),
)
