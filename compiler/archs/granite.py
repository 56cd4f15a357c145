"""Granite: Llama with multipliers for embeddings, attention, residuals and logits."""

from __future__ import annotations

from dataclasses import replace

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.layer import Layer

from . import llama
from .arch import Arch, Has

GGUF_CONFIG = {
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def decoder(config: Config, has: Has) -> Decoder:
    plain = llama.decoder(config, has)
    scale, residual = config.number("attention_multiplier", 1.0), config.number("residual_multiplier", 1.0)
    layers = [
        replace(layer, attention=replace(layer.attention, scale=scale), residual_scale=residual)
        for layer in plain.layers
        if isinstance(layer, Layer)
    ]
    return replace(
        plain,
        layers=tuple(layers),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        logits_scale=1 / config.number("logits_scaling", 1.0),
    )


GRANITE = Arch(
    "granite",
    hf=("GraniteForCausalLM",),
    gguf=("granite",),
    decoder=decoder,
    gguf_naming=llama.GGUF_NAMING,
    gguf_config=GGUF_CONFIG,
)
