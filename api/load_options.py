"""How a package runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mistralrs_onnx.graphs.contract import LARGEST_CHUNK, KVDtype
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.runner import Determinism

from .adapters import AdapterOptions
from .speculate import SpeculateOptions

Kernels = Literal["native", "stock"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a package runs.

    `device`: "cpu", "cuda" or "cuda:1". On CUDA keys and values are float16, their memory is taken at once, no bits are
    promised, and there are no adapters. `kv_dtype`: of the keys and values kept on the CPU. `determinism`: there,
    "invariant" gives the same bits whatever else runs; "fast" gives that up for chunks and drafts. `kernels`: "native"
    runs packed linears on kernels of our own where this machine can, "stock" on ONNX Runtime's. `num_threads`: None
    takes every processor. `verify`: check sha256 sums. `generation_config`: "auto" samples as the package recommends
    what a request leaves unsaid. `adapters`: None runs the graph that takes none, which is a little faster.
    `tgt_non_granular_index`: of X-LoRA, which generated token's scalings all later ones use; None gives each its own.
    `speculate`: guess several tokens at once. `repeat_last_n`: how far back `repetition_penalty` looks in requests that
    do not say; None is 64 tokens.
    """

    engine: EngineOptions = field(default_factory=EngineOptions)
    kv_dtype: KVDtype = "float32"
    determinism: Determinism = "invariant"
    num_threads: int | None = None
    verify: bool = False
    generation_config: Literal["auto", "none"] = "auto"
    adapters: AdapterOptions | None = None
    tgt_non_granular_index: int | None = None
    speculate: SpeculateOptions | None = None
    repeat_last_n: int | None = None
    device: str = "cpu"
    kernels: Kernels = "native"


def check_chunk(limits: EngineOptions) -> None:
    """Raises PackageError."""
    if limits.prefill_chunk > LARGEST_CHUNK:
        raise PackageError(f"a prefill chunk may have up to {LARGEST_CHUNK} tokens, got {limits.prefill_chunk}")
