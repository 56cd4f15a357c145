"""SmolLM3: Llama in which every fourth layer knows no positions."""

from __future__ import annotations

from dataclasses import replace

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.decoder import Decoder

from . import llama
from .arch import Arch, Has


def decoder(config: Config, has: Has) -> Decoder:
    if not config.flag("use_sliding_window", default=False):
        config = Config({**config.values, "sliding_window": None})
    plain = llama.decoder(config, has)
    layers = [
        layer if turns else replace(layer, attention=replace(layer.attention, rope=None))
        for layer, turns in zip(plain.layers, _turns(config), strict=True)
    ]
    return replace(plain, layers=tuple(layers))


def _turns(config: Config) -> list[bool]:
    """Of each layer: `no_rope_layers` says 1 where positions are known."""
    count, every = config.size("num_hidden_layers"), config.size("no_rope_layer_interval", 4)
    named = config.values.get("no_rope_layers")
    if named is None:
        return [(i + 1) % every != 0 for i in range(count)]
    if not isinstance(named, list) or len(named) != count:
        raise CompileError(f"config key no_rope_layers must be a list of {count} numbers, got {named!r}")
    return [bool(turns) for turns in named]


SMOLLM3 = Arch("smollm3", ("SmolLM3ForCausalLM",), ("smollm3",), decoder, gguf_naming=llama.GGUF_NAMING)
