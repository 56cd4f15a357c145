"""OLMo 2: norms behind the blocks instead of before them; queries and keys are normed over all heads together."""

from __future__ import annotations

from dataclasses import replace

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.graphs.attention import JointNorm
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.layer import PostNorm

from .arch import Arch, Has
from .parts import GGUF_SANDWICH, assemble, attention, gated, rms_norm


def decoder(config: Config, has: Has) -> Decoder:
    if "sliding_window" in config:
        raise CompileError("OLMo 2 has no sliding window: this is OLMo 3, which is not supported")
    norm = rms_norm(config)
    layer = PostNorm(replace(attention(config), norm=JointNorm(norm)), gated(config), norm)
    return assemble(config, has, [layer] * config.size("num_hidden_layers"), norm)


OLMO2 = Arch("olmo2", ("Olmo2ForCausalLM",), ("olmo2",), decoder, gguf_naming=Naming(GGUF_SANDWICH))
