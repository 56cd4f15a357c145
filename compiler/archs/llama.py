"""Llama, and the families that kept its shape: Mistral too, whose early models see a window."""

from __future__ import annotations

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.layer import Layer

from .arch import Arch, Has
from .parts import GGUF_TENSORS, PERMUTED, assemble, attention, gated, rms_norm, windowed, windows


def decoder(config: Config, has: Has) -> Decoder:
    norm, mlp = rms_norm(config), gated(config)
    each = windowed(attention(config), windows(config, lambda i: True))
    return assemble(config, has, (Layer(one, mlp, norm) for one in each), norm)


GGUF_NAMING = Naming(GGUF_TENSORS, permuted=PERMUTED)

LLAMA = Arch("llama", hf=("LlamaForCausalLM",), gguf=("llama",), decoder=decoder, gguf_naming=GGUF_NAMING)
MISTRAL = Arch("mistral", hf=("MistralForCausalLM",), gguf=("mistral",), decoder=decoder, gguf_naming=GGUF_NAMING)
