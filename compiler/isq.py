"""In-situ quantization: which weights become which type, and weights that are quantized as they are read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mistralrs_onnx.graphs.weights import DENSE, Matrix, Weights
from mistralrs_onnx.ops.formats import Bytes, Float32, find_format

from .dense import cast_rows
from .errors import CompileError
from .isq_map import BLOCK_SIZES, KEEP, OURS, Rule

PIECE = 1 << 19  # weights that a thread works on at a time: 2 MB as float32
LARGEST = 65504.0  # scales are float16

TABLES = ("model.embed_tokens.weight", "lm_head.weight")
# One step up in 2 < 3 < 4 < 5 < 6 < 8 bits.
PROMOTED = {
    "Q2_K": "Q3_K",
    "Q3_K": "Q4_K",
    "Q4_0": "Q5_0",
    "Q4_1": "Q5_1",
    "Q4_K": "Q5_K",
    "Q5_0": "Q6_K",
    "Q5_1": "Q6_K",
    "Q5_K": "Q6_K",
    "Q6_K": "Q8_0",
}
# Where columns are no multiple of 256; levels have no fewer bits than asked.
IN_BLOCKS_OF_32 = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q8_K": "Q8_0"}


@dataclass(frozen=True, slots=True)
class Isq:
    """What was asked for.

    `type`: of all matrices, None: as they are. `rules`: for some; the first that matches decides. `requantize`: also
    change weights that are quantized already, which adds one error to another.
    """

    type: str | None = None
    rules: tuple[Rule, ...] = ()
    requantize: bool = False


class Choice(NamedTuple):
    """What becomes of a matrix. `fell_back`: its shape did not allow what was asked."""

    name: str
    source: str
    chosen: str
    reason: str
    fell_back: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A choice for every matrix, by name."""

    choices: Mapping[str, Choice]

    def describe(self) -> tuple[Choice, ...]:
        """In the order of the model: (name, source, chosen, reason, fell_back)."""
        return tuple(self.choices.values())

    @property
    def fallbacks(self) -> tuple[Choice, ...]:
        return tuple(choice for choice in self.choices.values() if choice.fell_back)


def is_router(name: str) -> bool:
    """Whether a weight chooses experts: a few rows, whose errors would change which ones."""
    return name.removesuffix(".weight").rpartition(".")[2] in {"gate", "shared_expert_gate"}


def make_plan(
    isq: Isq, weights: Weights, shapes: Mapping[str, tuple[int, ...]], *, keep: Callable[[str], bool] = is_router
) -> Plan:
    """Chooses for every matrix of `shapes` (name with `.weight` to shape) but those to keep.

    Raises CompileError for a rule that matches nothing, and for quantized weights that would change without
    `requantize`.
    """
    names = [name for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight") and not keep(name)]
    _refuse_unmatched(isq.rules, names)
    choices = {name: _choose(isq, name, weights.matrix(name)) for name in names}
    if not isq.requantize:
        _refuse_quantized(choices.values())
    return Plan(choices)


def _choose(isq: Isq, name: str, matrix: Matrix) -> Choice:
    wanted, reason = _wanted(isq, name)
    if wanted in (KEEP, matrix.format):
        return Choice(name, matrix.format, matrix.format, reason)
    chosen = wanted if wanted in DENSE else fitting(wanted, matrix.shape[1])
    if chosen == wanted:
        return Choice(name, matrix.format, chosen, reason)
    if chosen is None:
        chosen = "F16" if matrix.format == "F32" else matrix.format
    shape = f"{matrix.shape[1]} columns are no whole blocks of {wanted}"
    return Choice(name, matrix.format, chosen, f"{reason}; {shape}: {chosen} instead", fell_back=True)


def _wanted(isq: Isq, name: str) -> tuple[str, str]:
    for rule in isq.rules:
        if rule.matches(name):
            return rule.type, f"rule {rule.pattern}"
    if isq.type is None:
        return KEEP, "as it is"
    if name in TABLES and promoted(isq.type) != isq.type:
        return promoted(isq.type), f"embeddings and the LM head get a step more than {isq.type}"
    return isq.type, "as asked"


def promoted(wanted: str) -> str:
    """What embeddings and the LM head become where other weights become `wanted`."""
    return wanted.replace("int4", "int8") if OURS.fullmatch(wanted) else PROMOTED.get(wanted, wanted)


def fitting(wanted: str, columns: int) -> str | None:
    """`wanted`, or what takes its place in rows of that many columns; None where only a dense type is left."""
    if columns % find_format(wanted).block_size == 0:
        return wanted
    ours = OURS.fullmatch(wanted)
    if ours:
        sizes = [size for size in BLOCK_SIZES if size < int(ours[2]) and columns % size == 0]
        return f"int{ours[1]}-{max(sizes)}" if sizes else None
    return IN_BLOCKS_OF_32.get(wanted) if columns % 32 == 0 else None


def _refuse_unmatched(rules: Iterable[Rule], names: list[str]) -> None:
    for rule in rules:
        if not any(rule.matches(name) for name in names):
            known = sorted({re.sub(r"\.\d+\.", ".*.", name.removesuffix(".weight")) for name in names})
            raise CompileError(f"the pattern {rule.pattern!r} matches no matrix, there are: {', '.join(known)}")


def _refuse_quantized(choices: Iterable[Choice]) -> None:
    changed = [choice for choice in choices if choice.source not in DENSE and choice.chosen != choice.source]
    if changed:
        first = changed[0]
        raise CompileError(
            f"{len(changed)} matrices are quantized already, such as {first.name} in {first.source}, and"
            f" {first.chosen} would add a second error to theirs: start from a dense checkpoint, or say --requantize"
        )


class Requantized:
    """The weights of a plan. Matrices are quantized when their rows are read; vectors pass through."""

    def __init__(self, weights: Weights, plan: Plan, *, threads: int | None = None) -> None:
        self._weights = weights
        self._plan = plan
        self._threads = threads or os.cpu_count() or 1

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def matrix(self, name: str) -> Matrix:
        matrix = self._weights.matrix(name)
        choice = self._plan.choices.get(name)
        if choice is None or choice.chosen == matrix.format:
            return matrix
        return RequantizedMatrix(matrix, choice.chosen, name, self._threads)

    def vector(self, name: str) -> Float32:
        return self._weights.vector(name)


@dataclass(frozen=True, slots=True)
class RequantizedMatrix:
    """A matrix in another type. Memory is bounded: `threads` pieces are in float32 at a time."""

    source: Matrix
    format: str
    name: str
    threads: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape

    def rows(self, start: int, stop: int) -> Bytes:
        """Raises CompileError for weights that have no finite, moderate value."""
        step = max(1, PIECE // self.shape[1])
        bounds = [(first, min(first + step, stop)) for first in range(start, stop, step)]
        if len(bounds) < 2 or self.threads < 2:
            return np.concatenate([self._convert(self.source.rows(*piece)) for piece in bounds])
        with ThreadPoolExecutor(self.threads) as pool:
            rounds = [bounds[i : i + self.threads] for i in range(0, len(bounds), self.threads)]
            # Files are read by this thread alone: their readers have one position.
            made = [part for each in rounds for part in pool.map(self._convert, [self.source.rows(*p) for p in each])]
        return np.concatenate(made)

    def _convert(self, raw: Bytes) -> Bytes:
        weights = floats(raw, self.source.format)
        if self.format in DENSE:
            return cast_rows(weights.view(np.uint8), "F32", self.format, self.name)
        self._check(weights)
        return find_format(self.format).quantize(weights)

    def _check(self, weights: Float32) -> None:
        worst = np.abs(weights).max()
        if not worst <= LARGEST:  # not a number compares as false
            raise CompileError(
                f"{self.name} holds {worst:g}, and {self.format} holds nothing above {LARGEST:g}:"
                " keep this weight with a rule such as `pattern f32`"
            )


def floats(raw: Bytes, source: str) -> Float32:
    """Rows of any type as float32, (N, K)."""
    if source in DENSE:
        return np.ascontiguousarray(raw).view(DENSE[source]).astype(np.float32)
    meaning = find_format(source)
    return meaning.dequantize(meaning.split(raw))
