"""Reads GGUF files, versions 2 and 3, believing nothing that the file has not been checked to hold.

Layout: magic, version, counts; key-value pairs; tensor records; padding; tensor data. Little-endian throughout.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from itertools import pairwise
from math import prod
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.compiler.errors import CompileError

from .cursor import MAX_HEADER, U64, Cursor, FieldError
from .ggml import TYPES
from .metadata import Metadata, Value

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = MAX_TENSORS = 100_000
MAX_NESTING = 4
NESTED_COST = 16  # items that an array inside an array counts for

STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """`shape` is row-major, (N, K): GGML's dimensions reversed. `offset` counts from the start of the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class GGUF:
    """An open file: metadata, tensor records, and the bytes of tensors as they are asked for."""

    def __init__(
        self, path: Path, file: BufferedReader, version: int, metadata: Metadata, tensors: Mapping[str, GGUFTensor]
    ) -> None:
        self.path = path
        self.version = version
        self.metadata = metadata
        self.tensors = tensors
        self._file = file

    def read(self, tensor: GGUFTensor, start: int, num_bytes: int) -> NDArray[np.uint8]:
        """Bytes `start` to `start + num_bytes` of a tensor, (num_bytes,), read now and not mapped.

        Raises CompileError when the file has become shorter since it was opened.
        """
        assert 0 <= start <= start + num_bytes <= tensor.nbytes
        buffer = np.empty(num_bytes, np.uint8)
        self._file.seek(tensor.offset + start)
        got = self._file.readinto(buffer.data)
        if got != num_bytes:
            raise CompileError(
                f"{self.path}: tensor {tensor.name}: wanted {num_bytes} bytes, got {got}: the file changed"
            )
        return buffer

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_gguf(path: Path | str) -> GGUF:
    """Opens a file and checks all of its header; tensor data is not touched. Raises CompileError."""
    path = Path(path)
    if not path.is_file():
        raise CompileError(f"{path}: no such file")
    try:
        file = path.open("rb")
        try:
            return _read(path, file)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise CompileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except FieldError as error:
        raise CompileError(f"{path}: {error}") from error


def _read(path: Path, file: BufferedReader) -> GGUF:
    size = path.stat().st_size
    if size < 24:
        raise FieldError("file", "at least 24 bytes, the shortest header", f"{size}: it is truncated or no GGUF file")
    with mmap.mmap(file.fileno(), min(size, MAX_HEADER), access=mmap.ACCESS_READ) as header:
        cursor = Cursor(header, size)
        version, num_tensors, num_keys = _preamble(cursor)
        metadata = Metadata(_pairs(cursor, num_keys))
        _refuse_split(metadata)
        records = [_record(cursor, i) for i in range(num_tensors)]
    tensors = _place(records, _data_start(cursor.position, metadata), size, _alignment(metadata))
    return GGUF(path, file, version, metadata, MappingProxyType(tensors))


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


def _pairs(cursor: Cursor, num_keys: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for i in range(num_keys):
        key = cursor.name(f"key {i}")
        if not key or key in values:
            raise FieldError(f"key {i}", "a new name", repr(key[:80]))
        values[key] = _value(cursor, cursor.u32(f"type of {key}"), key, 0)
    return values


def _value(cursor: Cursor, kind: int, key: str, nesting: int) -> Value:
    if kind == STRING:
        return cursor.string(key)
    if kind == ARRAY:
        return _array(cursor, key, nesting + 1)
    return _numbers(cursor, kind, 1, key).tolist()[0]  # type: ignore[no-any-return]


def _array(cursor: Cursor, key: str, nesting: int) -> Value:
    if nesting > MAX_NESTING:
        raise FieldError(key, f"arrays nested at most {MAX_NESTING} deep", "deeper")
    kind = cursor.u32(f"element type of {key}")
    length = cursor.u64(f"length of {key}")
    if kind == STRING:
        return _strings(cursor, length, key)
    if kind == ARRAY:
        cursor.charge(length * NESTED_COST, key)
        return [_array(cursor, key, nesting + 1) for _ in range(length)]
    return _numbers(cursor, kind, length, key)


def _numbers(cursor: Cursor, kind: int, length: int, key: str) -> NDArray[np.generic]:
    if kind not in NUMBERS:
        raise FieldError(f"type of {key}", "a metadata type, 0 to 12", kind)
    dtype = np.dtype(NUMBERS[kind])
    start = cursor.need(length * dtype.itemsize, key)
    numbers = np.frombuffer(cursor.header[start : cursor.position], dtype)
    if kind != BOOL:
        return numbers
    if numbers.size and numbers.max() > 1:
        raise FieldError(key, "0 or 1, a boolean", numbers.max())
    return numbers.astype(np.bool_)


def _strings(cursor: Cursor, length: int, key: str) -> list[str]:
    """One loop without calls of ours: vocabularies have hundreds of thousands of strings."""
    cursor.charge(length, key)
    header, position, end = cursor.header, cursor.position, len(cursor.header)
    read_length = U64.unpack_from
    strings: list[str] = []
    try:
        for _ in range(length):
            start = position + 8
            position = start + read_length(header, position)[0]
            if position > end:
                break
            strings.append(str(header[start:position], "utf-8"))
    except (struct.error, UnicodeDecodeError):
        pass
    if len(strings) == length:
        cursor.position = position
    else:
        _name_fault(cursor, strings, length, key)
    return strings


def _name_fault(cursor: Cursor, strings: list[str], length: int, key: str) -> None:
    """Reads the first bad string again, with checks that say what is wrong."""
    cursor.position += sum(8 + len(string.encode()) for string in strings)
    for i in range(len(strings), length):
        cursor.string(f"{key}[{i}]")


def _refuse_split(metadata: Metadata) -> None:
    parts = metadata.integer("split.count", 1)
    if parts > 1:
        raise CompileError(f"the model is split into {parts} files: join them first (llama-gguf-split --merge)")


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


def _data_start(header_end: int, metadata: Metadata) -> int:
    alignment = _alignment(metadata)
    return -(-header_end // alignment) * alignment


def _place(records: list[Record], start: int, size: int, alignment: int) -> dict[str, GGUFTensor]:
    """Absolute positions, in the order of the file's header, each inside the file and none on another."""
    tensors: dict[str, GGUFTensor] = {}
    for name, kind, shape, offset, nbytes in records:
        if name in tensors:
            raise FieldError("tensor name", "new", f"{name!r} twice")
        if offset % alignment:
            raise FieldError(f"offset of tensor {name}", f"a multiple of {alignment}", offset)
        if start + offset + nbytes > size:
            raise FieldError(f"end of tensor {name}", f"within the file of {size} bytes", start + offset + nbytes)
        tensors[name] = GGUFTensor(name, kind, shape, start + offset, nbytes)
    _refuse_overlap(tensors)
    return tensors


def _refuse_overlap(tensors: Mapping[str, GGUFTensor]) -> None:
    in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in pairwise(in_order):
        if before.offset + before.nbytes > after.offset:
            raise FieldError(f"offset of tensor {after.name}", f"past the end of tensor {before.name}", after.offset)
