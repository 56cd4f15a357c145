"""What a compile would read, write and need, and what would then fit into memory, before anything is done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from typing import Literal, NamedTuple, Protocol

import numpy as np

from mistralrs_onnx.graphs.weights import CHUNK
from mistralrs_onnx.ops.formats import find_format, is_packed

from .sizes import size_text as size_text

Role = Literal["matmul", "gather", "both"]

MiB = 1 << 20
COMPILE_BASE = 150 * MiB  # the libraries and the graphs; 148 MiB measured in all, SmolLM2-135M
RUNTIME_BASE = 150 * MiB  # the libraries, the tokenizer and the activations of a step
PREPACKED = 1.5  # memory of a session over the bytes of its folded weights: 1.43 measured, SmolLM2-135M Q4_1
CONTEXTS = (2048, 8192, 32768, 131072)


class Cache(Protocol):
    """Keys and values of a model."""

    def token_bytes(self, itemsize: int) -> int:
        """Bytes for one position of one sequence."""


class Model(Protocol):
    """What of a decoder's spec counts here."""

    @property
    def kv(self) -> Cache: ...

    @property
    def context_length(self) -> int: ...


class TensorPlan(NamedTuple):
    """A tensor of the checkpoint and what becomes of it. `role`: how graphs read it, a tied embedding in both ways."""

    name: str
    type_in: str
    type_out: str
    shape: tuple[int, ...]
    bytes_in: int
    bytes_out: int
    role: Role = "matmul"

    @property
    def memory(self) -> int:
        """Bytes in a running session: rows to gather stay as they are in the file, matrices are folded."""
        gathered = self.bytes_out if self.role in ("gather", "both") else 0
        return gathered + (self._folded if self.role in ("matmul", "both") else 0)

    @property
    def _folded(self) -> int:
        if not is_packed(self.type_out):
            return 4 * prod(self.shape)  # float kernels compute in float32
        return int(PREPACKED * folded_bytes(self.type_out, prod(self.shape)))

    @property
    def chunk(self) -> int:
        """Bytes in memory at a time while it is written: as read, as floats where the type changes, as written."""
        part = min(1.0, CHUNK / max(self.bytes_in, 1))
        floats = 4 * prod(self.shape) if self.type_in != self.type_out else 0
        return int(part * (self.bytes_in + floats + self.bytes_out))


class Fit(NamedTuple):
    """How many sequences of `context` tokens fit, by what keys and values are kept in."""

    context: int
    float32: int
    float16: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """All sizes in bytes. `compile_memory`: peak; `runtime_memory`: without keys and values; `available`: for both."""

    tensors: tuple[TensorPlan, ...]
    bytes_in: int
    bytes_out: int
    compile_memory: int
    runtime_memory: int
    kv_float32: int
    kv_float16: int
    context_length: int
    available: int

    @property
    def fits(self) -> tuple[Fit, ...]:
        """For some contexts up to the model's own."""
        contexts = sorted({*(c for c in CONTEXTS if c < self.context_length), self.context_length})
        room = max(self.available - self.runtime_memory, 0)
        return tuple(Fit(c, room // (c * self.kv_float32), room // (c * self.kv_float16)) for c in contexts)


def estimate(spec: Model, tensors: Iterable[TensorPlan], available: int, num_caches: int = 1) -> Estimate:
    """`available`: bytes of memory that a server may take. `num_caches`: sets of keys and values of a sequence."""
    plans = tuple(tensors)
    return Estimate(
        tensors=plans,
        bytes_in=sum(plan.bytes_in for plan in plans),
        bytes_out=sum(plan.bytes_out for plan in plans),
        compile_memory=COMPILE_BASE + max((plan.chunk for plan in plans), default=0),
        runtime_memory=RUNTIME_BASE + sum(plan.memory for plan in plans),
        kv_float32=num_caches * spec.kv.token_bytes(4),
        kv_float16=num_caches * spec.kv.token_bytes(2),
        context_length=spec.context_length,
        available=available,
    )


def folded_bytes(type_name: str, num_weights: int) -> int:
    """Bytes of what a packed type is relaid to when a session is made: levels, scales, and offsets if it has them."""
    columns, num_bytes = _folded_block(type_name)
    return num_weights * num_bytes // columns


@cache
def _folded_block(type_name: str) -> tuple[int, int]:
    format_ = find_format(type_name)
    folded = format_.nbits(format_.split(np.zeros((1, format_.type_size), np.uint8)))
    parts = (folded.q, folded.scale, folded.offset, folded.zero)
    return format_.block_size, sum(part.nbytes for part in parts if part is not None)


def to_json(estimate: Estimate) -> str:
    """Every tensor and every figure, sizes in bytes."""
    values = asdict(estimate)
    values["tensors"] = [plan._asdict() for plan in estimate.tensors]
    values["fits"] = [fit._asdict() for fit in estimate.fits]
    return json.dumps(values, indent=2) + "\n"


def render(estimate: Estimate) -> str:
    """Tables for a terminal; equal tensors of several layers share a line."""
    return "\n".join([*_table(_tensor_rows(estimate)), "", *_figures(estimate), "", *_table(_fit_rows(estimate)), ""])


def _tensor_rows(estimate: Estimate) -> list[tuple[str, ...]]:
    groups: dict[tuple[object, ...], list[TensorPlan]] = {}
    for plan in estimate.tensors:
        groups.setdefault((re.sub(r"\d+", "*", plan.name), *plan[1:4]), []).append(plan)
    rows: list[tuple[str, ...]] = [("tensor", "number", "shape", "type", "becomes", "bytes", "become")]
    for (name, *_), plans in groups.items():
        first, label = plans[0], str(name) if len(plans) > 1 else plans[0].name
        shape = "x".join(map(str, first.shape))
        sizes = (size_text(sum(plan.bytes_in for plan in plans)), size_text(sum(plan.bytes_out for plan in plans)))
        rows.append((label, str(len(plans)), shape, first.type_in, first.type_out, *sizes))
    total = size_text(estimate.bytes_in), size_text(estimate.bytes_out)
    return [*rows, ("all", str(len(estimate.tensors)), "", "", "", *total)]


def _figures(estimate: Estimate) -> list[str]:
    rows = {
        "peak memory of compiling": estimate.compile_memory,
        "memory of serving, without keys and values": estimate.runtime_memory,
        "memory available": estimate.available,
        "keys and values of a token in float32": estimate.kv_float32,
        "keys and values of a token in float16": estimate.kv_float16,
    }
    return _table([(label, size_text(size)) for label, size in rows.items()])


def _fit_rows(estimate: Estimate) -> list[tuple[str, ...]]:
    head = ("context", "sequences that fit in float32", "in float16")
    return [head, *((str(fit.context), str(fit.float32), str(fit.float16)) for fit in estimate.fits)]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines with columns as wide as their widest cell, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_cell(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(text: str, width: int) -> str:
    return text.rjust(width) if text[:1].isdigit() else text.ljust(width)
