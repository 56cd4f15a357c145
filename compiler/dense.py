"""Matrices of floating-point weights: as safetensors keep them, and converted to another type."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs.weights import DENSE, Matrix, Weights
from mistralrs_onnx.ops.formats import Bytes, Float32

from .checkpoints.safetensors import SafeTensor, Safetensors
from .errors import CompileError


@dataclass(frozen=True, slots=True)
class SafeMatrix:
    """Rows of one tensor, read from the file as they are asked for. Axes before the last are taken as one."""

    file: Safetensors
    tensor: SafeTensor

    def __post_init__(self) -> None:
        _check_dense(self.tensor)
        if len(self.tensor.shape) < 2 or 0 in self.tensor.shape:
            raise CompileError(f"tensor {self.tensor.name} must be a matrix, got shape {list(self.tensor.shape)}")

    @property
    def format(self) -> str:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return prod(self.tensor.shape[:-1]), self.tensor.shape[-1]

    def rows(self, start: int, stop: int) -> Bytes:
        width = self.tensor.nbytes // self.shape[0]
        return self.file.read(self.tensor, start * width, (stop - start) * width).reshape(stop - start, width)


@dataclass(frozen=True, slots=True)
class Converted:
    """A dense matrix in another float type, rounded to nearest, ties to even. `name` is for messages."""

    matrix: Matrix
    format: str
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def rows(self, start: int, stop: int) -> Bytes:
        """Raises CompileError for a finite value that the type cannot hold."""
        return cast_rows(self.matrix.rows(start, stop), self.matrix.format, self.format, self.name)


def cast_rows(raw: Bytes, source: str, target: str, name: str) -> Bytes:
    """Rows of float type `source` as rows of `target`. Raises CompileError where a finite value becomes infinite."""
    if source == target:
        return raw
    wide = np.ascontiguousarray(raw).view(DENSE[source]).astype(np.float32)
    with np.errstate(over="ignore"):
        narrow = wide.astype(DENSE[target])
    lost = np.isinf(narrow) & np.isfinite(wide)
    if lost.any():
        raise CompileError(
            f"tensor {name} holds {wide[lost][0]:g}, which {target} cannot hold: choose another dtype (f32 holds all)"
        )
    return narrow.view(np.uint8)


def read_vector(file: Safetensors, name: str) -> Float32:
    """All values of a dense tensor, (number of elements,). Exact: float32 holds the others."""
    tensor = file[name]
    _check_dense(tensor)
    values: NDArray[np.generic] = file.read(tensor, 0, tensor.nbytes).view(DENSE[tensor.dtype])
    return values.astype(np.float32)


def _check_dense(tensor: SafeTensor) -> None:
    if tensor.dtype not in DENSE:
        raise CompileError(f"tensor {tensor.name} has dtype {tensor.dtype}, needed here: one of {', '.join(DENSE)}")


@dataclass(frozen=True, slots=True)
class DenseAs:
    """Weights whose dense matrices are in one float type; others pass through."""

    weights: Weights
    dtype: str

    def __contains__(self, name: str) -> bool:
        return name in self.weights

    def matrix(self, name: str) -> Matrix:
        matrix = self.weights.matrix(name)
        return Converted(matrix, self.dtype, name) if matrix.format in DENSE else matrix

    def vector(self, name: str) -> Float32:
        return self.weights.vector(name)
