"""Weights with adapters merged into them, a few rows at a time: W + Σ b · a on what the weights mean."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mistralrs_onnx.compiler.archs.arch import Arch
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import RequantizedMatrix, fitting, floats
from mistralrs_onnx.compiler.isq_map import GGML_TYPES
from mistralrs_onnx.compiler.naming import Shape
from mistralrs_onnx.graphs.contract import Update, Updates
from mistralrs_onnx.graphs.weights import DENSE, Matrix, Weights
from mistralrs_onnx.ops.formats import Bytes, Float32

from .files import AdapterFiles
from .modules import HEAD
from .peft import read_files

logger = logging.getLogger(__name__)

MERGE_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}

# What takes the place of formats that are only read: the nearest that has at least about as many bits.
MADE = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S"), "Q2_K"),
    **dict.fromkeys(("IQ3_XXS", "IQ3_S"), "Q3_K"),
    **dict.fromkeys(("IQ4_XS", "IQ4_NL", "MXFP4"), "Q4_K"),
}


@dataclass(frozen=True, slots=True)
class ToMerge:
    """An adapter, and what all of its updates are multiplied by."""

    adapter: AdapterFiles
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise CompileError(f"the weight of adapter {self.adapter.name} must be a finite number, got {self.weight}")


def read_updates(adapters: Iterable[ToMerge], arch: Arch, shapes: Mapping[str, Shape]) -> tuple[Updates, ...]:
    """The updates of each adapter, its weight included. Raises CompileError as `read_files` does."""
    return tuple(weighted(read_files(each.adapter, arch, shapes).updates, each.weight) for each in adapters)


def weighted(updates: Updates, weight: float) -> Updates:
    """All updates times a number."""
    with np.errstate(over="ignore", invalid="ignore"):  # sums are checked
        return {name: Update(a, b * np.float32(weight)) for name, (a, b) in updates.items()}


class Merged:
    """Weights (`graphs.weights.Weights`) with the updates of all adapters added; those of none pass through.

    Matrices keep their type: they are quantized again, or rounded, once. With `dtype` (F32, F16, BF16) those that
    change become dense instead. Types that we cannot make become what `MADE` says, and integers with zero points
    integers without, in blocks of 32 at most, which make up for them. `exact`: where values are read from, if
    `weights` are rounded already. Raises CompileError for updates of what is not there or has another shape.
    """

    def __init__(
        self, weights: Weights, updates: Sequence[Updates], dtype: str | None = None, exact: Weights | None = None
    ) -> None:
        self._weights = weights
        self._exact = weights if exact is None else exact
        self._updates: dict[str, list[Update]] = {}
        for each in updates:
            for name, update in each.items():
                self._updates.setdefault(f"{name}.weight", []).append(update)
        for name in self._updates:
            _check(name, self._updates[name], weights)
        self._types = {name: dtype or _makeable(weights.matrix(name)) for name in self._updates}
        _note_changes(weights, self._types, dtype)

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def matrix(self, name: str) -> Matrix:
        if name not in self._updates:
            return self._weights.matrix(name)
        total = Summed(self._exact.matrix(name), tuple(self._updates[name]), name)
        return RequantizedMatrix(total, self._types[name], name, os.cpu_count() or 1)

    def vector(self, name: str) -> Float32:
        return self._weights.vector(name)


@dataclass(frozen=True, slots=True)
class Summed:
    """W + Σ b · a in float32, only for the rows that are asked for."""

    source: Matrix
    updates: tuple[Update, ...]
    name: str

    @property
    def format(self) -> str:
        return "F32"

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape

    def rows(self, start: int, stop: int) -> Bytes:
        """Raises CompileError where a sum has no finite value."""
        total = floats(self.source.rows(start, stop), self.source.format)
        with np.errstate(over="ignore", invalid="ignore"):
            for a, b in self.updates:
                total += b[start:stop] @ a
        if not np.isfinite(total).all():
            raise CompileError(f"{self.name} has values that are not finite once the adapters are merged into it")
        return total.view(np.uint8)


def _check(name: str, updates: Iterable[Update], weights: Weights) -> None:
    if name not in weights:
        reason = ": it is tied to the embedding table, and would change that" if name == HEAD else ""
        raise CompileError(f"an adapter updates {name}, which the base does not have{reason}")
    shape = weights.matrix(name).shape
    for a, b in updates:
        if (len(b), a.shape[1]) != shape:
            raise CompileError(f"an adapter updates {name} as if it were {(len(b), a.shape[1])}, it has shape {shape}")


def _makeable(matrix: Matrix) -> str:
    """The type of a matrix, or what takes its place where we only read it."""
    kind = matrix.format
    if kind in DENSE or kind in GGML_TYPES or (kind.startswith("int") and "-zp" not in kind):
        return kind
    if kind.startswith("int"):
        bits, size, *_ = kind.removeprefix("int").split("-")
        return f"int{bits}-{min(int(size), 32)}"
    made = MADE.get(kind) and fitting(MADE[kind], matrix.shape[1])
    if not made:
        raise CompileError(
            f"weights of type {kind} cannot be quantized again after merging: leave them dense with"
            f" --merge-dtype {'|'.join(MERGE_DTYPES)}"
        )
    return made


def _note_changes(weights: Weights, types: Mapping[str, str], dtype: str | None) -> None:
    changed = {(before, types[name]) for name in types if (before := weights.matrix(name).format) != types[name]}
    for before, after in sorted(changed) if dtype is None else ():
        logger.warning("%s is only read, not made: merged weights of that type become %s", before, after)
