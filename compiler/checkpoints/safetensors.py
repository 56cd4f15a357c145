"""Reads safetensors files and folders of shards, believing nothing that a file has not been checked to hold.

Layout: length of the header (uint64), header (a JSON object: name to dtype, shape and place), tensor data without gaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.compiler.errors import CompileError

from .cursor import MAX_NAME, U64, FieldError
from .shards import Shards, find_shards
from .source import Source, about
from .strict_json import MAX_JSON, parse_object

MAX_TENSORS = 100_000
MAX_DIMS = 8
MAX_DIM = 1 << 48

# Bytes of an element.
DTYPES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """`shape` is row-major; `offset` counts from the start of shard number `part`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    part: int = 0


class Safetensors:
    """Open shards: the records of all their tensors, and bytes of tensors as they are asked for."""

    def __init__(self, path: Path, sources: tuple[Source, ...], tensors: Mapping[str, SafeTensor]) -> None:
        self.path = path
        self.tensors = tensors
        self._sources = sources

    def __getitem__(self, name: str) -> SafeTensor:
        """Raises CompileError, and names the nearest, for a tensor that is not there."""
        if name not in self.tensors:
            raise CompileError(
                f"{self.path}: no tensor {name}{_nearest(name, self.tensors)}: the checkpoint is damaged"
            )
        return self.tensors[name]

    def read(self, tensor: SafeTensor, start: int, num_bytes: int) -> NDArray[np.uint8]:
        """Bytes `start` to `start + num_bytes` of a tensor, (num_bytes,), read now and not mapped.

        Raises CompileError when the file has become shorter since it was opened.
        """
        assert 0 <= start <= start + num_bytes <= tensor.nbytes
        return self._sources[tensor.part].read(tensor.offset + start, num_bytes, f"tensor {tensor.name}")

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_safetensors(path: Path | str) -> Safetensors:
    """Opens a file, an index or a folder and checks all headers; tensor data is not touched. Raises CompileError."""
    path = Path(path)
    with ExitStack() as opened:
        shards = find_shards(path)
        sources: list[Source] = []
        tensors: dict[str, SafeTensor] = {}
        for part, file in enumerate(shards.files):
            with about(file):
                sources.append(opened.enter_context(Source(file)))
                _add(tensors, _records(sources[-1], part), shards)
        _keep_promises(shards, tensors)
        opened.pop_all()
    return Safetensors(path, tuple(sources), MappingProxyType(tensors))


def _add(tensors: dict[str, SafeTensor], records: list[SafeTensor], shards: Shards) -> None:
    for record in records:
        if record.name in tensors:
            other = shards.files[tensors[record.name].part].name
            raise FieldError("tensor name", "in one shard", f"{record.name[:80]!r}, which is in {other} too")
        tensors[record.name] = record
    if len(tensors) > MAX_TENSORS:
        raise FieldError("tensor count", f"at most {MAX_TENSORS}", "more")


def _keep_promises(shards: Shards, tensors: Mapping[str, SafeTensor]) -> None:
    for name, file in shards.promised.items():
        if name not in tensors or shards.files[tensors[name].part].name != file:
            raise CompileError(
                f"the index promises tensor {name[:80]!r} in {file}, which lacks it: download both again"
            )


def _records(source: Source, part: int) -> list[SafeTensor]:
    """The tensors of a file by place."""
    header, start = _header(source)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FieldError("__metadata__", "an object of strings", repr(metadata)[:80])
    entries = sorted(
        (_entry(name, value) for name, value in header.items()), key=lambda entry: (entry.begin, entry.end)
    )
    _refuse_gaps(entries, source.size - start)
    return [
        SafeTensor(name, dtype, shape, start + begin, end - begin, part) for name, dtype, shape, begin, end in entries
    ]


def _header(source: Source) -> tuple[dict[str, Any], int]:
    """The JSON object and where tensor data starts."""
    if source.size < 10:
        raise FieldError("file", "at least 10 bytes", f"{source.size}: it is truncated or no safetensors file")
    length: int = U64.unpack(source.read(0, 8, "header length").data)[0]
    if not 2 <= length <= min(MAX_JSON, source.size - 8):
        expected = f"2 to {MAX_JSON} bytes and within the file of {source.size} bytes"
        raise FieldError("header length", expected, f"{length}: it is truncated or no safetensors file")
    return parse_object(source.read(8, length, "header").tobytes(), "header"), 8 + length


class Entry(NamedTuple):
    """A tensor as the header has it; places count from the start of the tensor data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _entry(name: str, value: object) -> Entry:
    shown = repr(name[:80])
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise FieldError("tensor name", f"1 to {MAX_NAME} printable letters", f"{shown} of {len(name)}")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise FieldError(f"entry of tensor {shown}", "an object of dtype, shape and data_offsets", repr(value)[:80])
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FieldError(f"dtype of tensor {shown}", f"one of {', '.join(DTYPES)}", repr(dtype)[:80])
    shape = _integers(value["shape"], MAX_DIMS, f"shape of tensor {shown}")
    place = _integers(value["data_offsets"], 2, f"data_offsets of tensor {shown}")
    if len(place) != 2 or place[0] > place[1]:
        raise FieldError(f"data_offsets of tensor {shown}", "begin and end", list(place))
    if place[1] - place[0] != prod(shape) * DTYPES[dtype]:
        expected = f"{prod(shape) * DTYPES[dtype]} bytes for {dtype} of shape {list(shape)}"
        raise FieldError(f"size of tensor {shown}", expected, place[1] - place[0])
    return Entry(name, dtype, shape, place[0], place[1])


def _integers(value: object, most: int, field: str) -> tuple[int, ...]:
    """Booleans are integers to Python, not to us."""
    if not isinstance(value, list) or len(value) > most or not all(type(n) is int and 0 <= n < MAX_DIM for n in value):
        raise FieldError(field, f"at most {most} integers from 0 to {MAX_DIM - 1}", repr(value)[:80])
    return tuple(value)


def _refuse_gaps(entries: list[Entry], data_bytes: int) -> None:
    """Data that no tensor has, or two have, would make one file two checkpoints."""
    end = 0
    for entry in entries:
        if entry.begin != end:
            kind = "overlap" if entry.begin < end else "gap"
            raise FieldError(
                f"begin of tensor {entry.name[:80]!r}", f"{end}, where the one before ends", f"{entry.begin}: {kind}"
            )
        end = entry.end
    if end != data_bytes:
        raise FieldError(
            "end of the last tensor", f"{data_bytes}, the end of the file", f"{end}: it is truncated or damaged"
        )


def _nearest(name: str, known: Mapping[str, SafeTensor]) -> str:
    near = get_close_matches(name, known, 1) if len(known) <= 1000 else []
    return f" (is it {near[0]}?)" if near else ""
