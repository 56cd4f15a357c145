"""StarCoder2: layer norms, biases, a plain feed-forward block, a window."""

from __future__ import annotations

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.layer import Layer
from mistralrs_onnx.graphs.mlp import Plain

from .arch import Arch, Has
from .parts import GGUF_TENSORS, activation, assemble, attention, layer_norm, windowed, windows

HF_TENSORS = {
    "model.layers.{i}.mlp.up_proj": "model.layers.{i}.mlp.c_fc",
    "model.layers.{i}.mlp.down_proj": "model.layers.{i}.mlp.c_proj",
}


def decoder(config: Config, has: Has) -> Decoder:
    norm = layer_norm(config, "norm_epsilon")
    mlp = Plain(config.size("intermediate_size"), activation(config, default="gelu_pytorch_tanh"))
    each = windowed(attention(config), windows(config, lambda i: True))
    return assemble(config, has, (Layer(one, mlp, norm) for one in each), norm)


STARCODER2 = Arch(
    "starcoder2",
    hf=("Starcoder2ForCausalLM",),
    gguf=("starcoder2",),
    decoder=decoder,
    hf_naming=Naming(HF_TENSORS),
    gguf_naming=Naming(GGUF_TENSORS),
    gguf_config={"norm_epsilon": "attention.layer_norm_epsilon"},
    # What the models were trained with. Converters do not write it and llama.cpp has no window here: behind it, our
    # answers are those of transformers, and not llama.cpp's.
    gguf_defaults={"sliding_window": 4096},
)
