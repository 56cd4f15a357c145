"""Reads GGUF files, versions 2 and 3, believing nothing that the file has not been checked to hold.

Layout: magic, version, counts; key-value pairs; tensor records; padding; tensor data. Little-endian throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from .cursor import MAX_HEADER, Cursor, FieldError
from .ggml import TYPES
from .gguf_parts import check_part, check_total, part_paths
from .gguf_values import read_pairs
from .metadata import Metadata
from .source import Source, about

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = MAX_TENSORS = 100_000


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """`shape` is row-major, (N, K): GGML's dimensions reversed. `offset` counts from the start of file `part`."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    part: int = 0


class GGUF:
    """An open model of one file or several: metadata, tensor records, and bytes of tensors as they are asked for."""

    def __init__(
        self,
        path: Path,
        sources: tuple[Source, ...],
        version: int,
        metadata: Metadata,
        tensors: Mapping[str, GGUFTensor],
    ) -> None:
        self.path = path
        self.version = version
        self.metadata = metadata
        self.tensors = tensors
        self._sources = sources

    def read(self, tensor: GGUFTensor, start: int, num_bytes: int) -> NDArray[np.uint8]:
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


class Part(NamedTuple):
    """One file of a model."""

    source: Source
    version: int
    metadata: Metadata
    tensors: Mapping[str, GGUFTensor]


def read_gguf(path: Path | str) -> GGUF:
    """Opens a file, and the other parts of a split model, and checks all headers; tensor data is not touched.

    Raises CompileError.
    """
    path = Path(path)
    with about(path), ExitStack() as opened:
        first = _open_part(path, 0, opened)
        paths = part_paths(path, first.metadata)
        tensors = dict(first.tensors)
        others = [_add_part(tensors, paths, number, opened) for number in range(1, len(paths))]
        if len(paths) > 1:
            check_total(first.metadata, len(tensors))
        opened.pop_all()
    return GGUF(path, (first.source, *others), first.version, first.metadata, MappingProxyType(tensors))


def _open_part(path: Path, number: int, opened: ExitStack) -> Part:
    with about(path):
        return _read(opened.enter_context(Source(path)), number)


def _add_part(tensors: dict[str, GGUFTensor], paths: list[Path], number: int, opened: ExitStack) -> Source:
    part = _open_part(paths[number], number, opened)
    with about(paths[number]):
        check_part(part.metadata, number, len(paths))
        for name in part.tensors.keys() & tensors.keys():
            raise FieldError("tensor name", "in one part", f"{name!r}, which is in part {tensors[name].part + 1} too")
        tensors.update(part.tensors)
        if len(tensors) > MAX_TENSORS:
            raise FieldError("tensor count of all parts", f"at most {MAX_TENSORS}", len(tensors))
    return part.source


def _read(source: Source, number: int) -> Part:
    size = source.size
    if size < 24:
        raise FieldError("file", "at least 24 bytes, the shortest header", f"{size}: it is truncated or no GGUF file")
    with source.map(MAX_HEADER) as header:
        cursor = Cursor(header, size)
        version, num_tensors, num_keys = _preamble(cursor)
        metadata = Metadata(read_pairs(cursor, num_keys), source.path)
        records = [_record(cursor, i) for i in range(num_tensors)]
    alignment = _alignment(metadata)
    start = -(-cursor.position // alignment) * alignment
    return Part(source, version, metadata, _place(records, start, size, alignment, number))


class Preamble(NamedTuple):
    """The fixed start of a file, without its magic."""

    version: int
    num_tensors: int
    num_keys: int


def _preamble(cursor: Cursor) -> Preamble:
    magic = cursor.header[cursor.need(4, "magic") : 4]
    if magic != MAGIC:
        raise FieldError("magic", repr(MAGIC), f"{magic!r}: this is not a GGUF file")
    version = cursor.u32("version")
    if version not in VERSIONS:
        raise FieldError("version", "2 or 3", _why_version(version))
    return Preamble(version, cursor.count("tensor count", MAX_TENSORS), cursor.count("key count", MAX_KEYS))


def _why_version(version: int) -> str:
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if swapped in VERSIONS:
        return f"{swapped} in big-endian order: convert the model for little-endian machines"
    return f"{version}: convert the model with a current converter"


class Record(NamedTuple):
    """A tensor as its header entry has it; `offset` counts from the start of the tensor data."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def _record(cursor: Cursor, index: int) -> Record:
    name = cursor.name(f"name of tensor {index}")
    num_dims = cursor.u32(f"dimension count of tensor {name}")
    if not 1 <= num_dims <= 4:
        raise FieldError(f"dimension count of tensor {name}", "1 to 4", num_dims)
    dims = [cursor.u64(f"dimension {i} of tensor {name}") for i in range(num_dims)]
    if min(dims) == 0:
        raise FieldError(f"dimensions of tensor {name}", "positive", dims)
    number = cursor.u32(f"type of tensor {name}")
    if number not in TYPES:
        raise FieldError(f"type of tensor {name}", "a GGML type", f"{number}: it is of a newer or removed format")
    kind = TYPES[number]
    if dims[0] % kind.block_size:
        raise FieldError(f"row length of tensor {name}", f"a multiple of {kind.block_size} for {kind.name}", dims[0])
    nbytes = prod(dims) // kind.block_size * kind.type_size
    return Record(name, kind.name, tuple(reversed(dims)), cursor.u64(f"offset of tensor {name}"), nbytes)


def _alignment(metadata: Metadata) -> int:
    alignment = metadata.integer("general.alignment", 32)
    if alignment <= 0 or alignment & (alignment - 1):
        raise FieldError("general.alignment", "a power of two", alignment)
    return alignment


def _place(records: list[Record], start: int, size: int, alignment: int, part: int) -> dict[str, GGUFTensor]:
    """Absolute positions, in the order of the file's header, each inside the file and none on another."""
    tensors: dict[str, GGUFTensor] = {}
    for name, kind, shape, offset, nbytes in records:
        if name in tensors:
            raise FieldError("tensor name", "new", f"{name!r} twice")
        if offset % alignment:
            raise FieldError(f"offset of tensor {name}", f"a multiple of {alignment}", offset)
        if start + offset + nbytes > size:
            raise FieldError(f"end of tensor {name}", f"within the file of {size} bytes", start + offset + nbytes)
        tensors[name] = GGUFTensor(name, kind, shape, start + offset, nbytes, part)
    _refuse_overlap(tensors)
    return tensors


def _refuse_overlap(tensors: Mapping[str, GGUFTensor]) -> None:
    in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in pairwise(in_order):
        if before.offset + before.nbytes > after.offset:
            raise FieldError(f"offset of tensor {after.name}", f"past the end of tensor {before.name}", after.offset)
