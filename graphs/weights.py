"""The one weight file that all graphs of a package share: who lies where, and how it is written piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mistralrs_onnx.ops.formats import Bytes, Float32, find_format

PAGE = 4096  # large tensors start on a page, so that hosts can map them
LINE = 64
LARGE = 1 << 20
CHUNK = 8 << 20  # bytes of a checkpoint in memory at a time

DENSE: dict[str, np.dtype[np.generic]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


class Matrix(Protocol):
    """Rows of a weight as its checkpoint keeps them."""

    @property
    def format(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    def rows(self, start: int, stop: int) -> Bytes:
        """Raw bytes, (stop - start, bytes per row)."""


def row_bytes(matrix: Matrix) -> int:
    """Bytes of a row, without reading one."""
    if matrix.format in DENSE:
        return matrix.shape[1] * DENSE[matrix.format].itemsize
    kind = find_format(matrix.format)
    return matrix.shape[1] // kind.block_size * kind.type_size


class Weights(Protocol):
    """The weights of a model under their canonical names."""

    def __contains__(self, name: str) -> bool: ...

    def matrix(self, name: str) -> Matrix: ...

    def vector(self, name: str) -> Float32: ...


@dataclass(frozen=True, slots=True)
class Stacked:
    """Matrices of one format and width on top of each other."""

    parts: tuple[Matrix, ...]

    @property
    def format(self) -> str:
        return self.parts[0].format

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    def rows(self, start: int, stop: int) -> Bytes:
        pieces, top = [], 0
        for part in self.parts:
            first, last = max(start - top, 0), min(stop - top, part.shape[0])
            if first < last:
                pieces.append(part.rows(first, last))
            top += part.shape[0]
        return np.concatenate(pieces)


class Field(NamedTuple):
    """A tensor in the file. `row_shape` is its shape after the first axis."""

    name: str
    dtype: np.dtype[np.generic]
    row_shape: tuple[int, ...]


Split = Callable[[Bytes], Mapping[str, NDArray[np.generic]]]


@dataclass(frozen=True, slots=True)
class _Group:
    """Fields that are made together from the rows of one matrix."""

    matrix: Matrix
    fields: tuple[Field, ...]
    split: Split
    offsets: tuple[int, ...]

    def write(self, file: BinaryIO) -> Iterator[int]:
        num_rows, step = self.matrix.shape[0], _rows_at_a_time(self.matrix)
        for start in range(0, num_rows, step):
            raw = self.matrix.rows(start, min(start + step, num_rows))
            planes = self.split(raw)
            for field, offset in zip(self.fields, self.offsets, strict=True):
                plane = np.ascontiguousarray(planes[field.name], dtype=field.dtype)
                file.seek(offset + start * (plane.nbytes // len(plane)))
                file.write(plane.view(np.uint8).data)
            yield raw.nbytes


def _rows_at_a_time(matrix: Matrix) -> int:
    return max(1, CHUNK // row_bytes(matrix))


class WeightFile:
    """Places tensors as graphs ask for them, each once, and writes them afterwards.

    Offsets depend on nothing but the order of asking, so equal graphs give equal files.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.size = 0
        self._tensors: dict[str, ir.ExternalTensor] = {}
        self._groups: list[_Group] = []

    def place(self, name: str, matrix: Matrix, fields: tuple[Field, ...], split: Split) -> list[ir.ExternalTensor]:
        """The fields of a matrix as external tensors named `name.field`."""
        missing = tuple(f for f in fields if f"{name}.{f.name}" not in self._tensors)
        if missing:
            placed = [self._tensor(f"{name}.{f.name}", f.dtype, (matrix.shape[0], *f.row_shape)) for f in missing]
            self._groups.append(_Group(matrix, missing, split, tuple(t.offset or 0 for t in placed)))
        return [self._tensors[f"{name}.{f.name}"] for f in fields]

    @property
    def source_bytes(self) -> int:
        return sum(g.matrix.shape[0] * row_bytes(g.matrix) for g in self._groups)

    def write(self, file: BinaryIO) -> Iterator[int]:
        """Writes everything; yields how many checkpoint bytes each piece consumed."""
        file.truncate(self.size)
        for group in self._groups:
            yield from group.write(file)

    def _tensor(self, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> ir.ExternalTensor:
        length = int(np.prod(shape)) * dtype.itemsize
        align = PAGE if length >= LARGE else LINE
        offset = -(-self.size // align) * align
        self.size = offset + length
        kind = ir.DataType.from_numpy(dtype)
        tensor = ir.ExternalTensor(self.location, offset, length, kind, shape=ir.Shape(shape), name=name)
        self._tensors[name] = tensor
        return tensor
