"""What an architecture file provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.weights import Weights


@dataclass(frozen=True, slots=True)
class Arch:
    """An architecture: its names, its config as a tree of specs, and where GGUF differs from canonical names and rows.

    `hf`, `gguf`: what checkpoints call it. `gguf_tensors`: GGUF name of each canonical name, `{i}` the layer.
    `permuted`: canonical endings of matrices whose rows GGUF keeps in adjacent-pair order of each head.
    """

    name: str
    hf: tuple[str, ...]
    gguf: tuple[str, ...]
    decoder: Callable[[Config, Weights], Decoder]
    gguf_tensors: Mapping[str, str]
    permuted: tuple[str, ...] = ()
