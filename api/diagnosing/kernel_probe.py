"""Whether this machine computes the same bits in any batch: tiny models of random weights, one for each kind of kernel.

Needs no checkpoint, and about a second.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mistralrs_onnx.compiler.archs.llama import LLAMA
from mistralrs_onnx.compiler.canonical import CanonicalWeights
from mistralrs_onnx.compiler.checkpoint import Checkpoint
from mistralrs_onnx.compiler.compile import CompileOptions, compile_checkpoint
from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.naming import Shape
from mistralrs_onnx.compiler.tokenizer.files import TokenizerFiles
from mistralrs_onnx.compiler.tokenizer.vocabulary import SpecialIds
from mistralrs_onnx.graphs.contract import TOKENIZER
from mistralrs_onnx.model import LoadOptions, make_runner
from mistralrs_onnx.ops.formats import Bytes, Float32
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.native import kernel_library
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.probe import NEEDED, check_logits, is_invariant, settle_rows
from mistralrs_onnx.runtime.sessions import make_session

KINDS: Mapping[str, str | None] = {"dense": None, "8 bits": "Q8_0", "4 bits": "Q4_0", "2 bits": "Q2_K"}
HEAD_SIZE = 64
CONFIG = Config(
    {
        "model_type": "llama",
        "vocab_size": 128,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": 256 // HEAD_SIZE,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
    }
)
SMALL = LoadOptions(engine=EngineOptions(max_seqs=1, max_model_len=NEEDED, prefill_chunk=NEEDED))


class Probed(NamedTuple):
    """What was found for a kind of kernel. `row_multiple`: kernels are shown a multiple of so many rows for it."""

    kind: str
    is_invariant: bool
    row_multiple: int


def probe_kernels() -> tuple[Probed, ...]:
    """Raises PackageError when ONNX Runtime cannot run such a model, or returns nonsense."""
    return tuple(_probe(kind, type_name) for kind, type_name in KINDS.items())


def _probe(kind: str, type_name: str | None) -> Probed:
    checkpoint = Checkpoint("probe", LLAMA, CONFIG, _weights(), _tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        options = CompileOptions(isq=Isq(type_name))
        package = open_package(compile_checkpoint(nullcontext(checkpoint), Path(folder) / "package", options))
        runner = make_runner(package, SMALL, make_session(package.engine("float32"), kernels=kernel_library()))
    check_logits(runner)
    settle_rows(runner)
    return Probed(kind, is_invariant(runner), runner.row_multiple)


def _weights() -> CanonicalWeights:
    return CanonicalWeights(Random(LLAMA.decoder(CONFIG, lambda name: True).shapes()), LLAMA.hf_naming, HEAD_SIZE)


def _tokenizer() -> TokenizerFiles:
    return TokenizerFiles({TOKENIZER: b"{}"}, SpecialIds(None, (1,), None))


@dataclass(frozen=True, slots=True)
class Random:
    """Weights that are the same each time; those of norms are around 1."""

    shapes: Mapping[str, Shape]

    def type(self, name: str) -> str:
        return "F32"

    def matrix(self, name: str, expert: int | None = None) -> RandomMatrix:
        return RandomMatrix(self._values(name))

    def vector(self, name: str, expert: int | None = None) -> Float32:
        return 1 + self._values(name)

    def _values(self, name: str) -> Float32:
        drawn = np.random.default_rng(len(name)).standard_normal(self.shapes[name])
        return (0.05 * drawn).astype(np.float32)


@dataclass(frozen=True, slots=True)
class RandomMatrix:
    """A matrix that is in memory."""

    values: Float32
    format: str = "F32"

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def rows(self, start: int, stop: int) -> Bytes:
        return self.values[start:stop].view(np.uint8)
