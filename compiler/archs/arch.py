"""What an architecture file provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.graphs.decoder import Decoder

Has = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Arch:
    """An architecture: its names, its config as a tree of specs, and where checkpoints depart from canonical names.

    `hf`, `gguf`: what checkpoints call it. `decoder`: from a config and whether there is a name among the weights.
    `gguf_config`: GGUF metadata, without the architecture before it, of config keys that only this one has.
    `gguf_defaults`: what holds for all released models, where GGUF files do not say it.
    """

    name: str
    hf: tuple[str, ...]
    gguf: tuple[str, ...]
    decoder: Callable[[Config, Has], Decoder]
    hf_naming: Naming = Naming()
    gguf_naming: Naming = Naming()
    gguf_config: Mapping[str, str] = field(default_factory=dict)
    gguf_defaults: Mapping[str, int] = field(default_factory=dict)
