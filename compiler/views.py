"""Matrices made of rows of other matrices: a part of them, in another order, or turned over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs.weights import Matrix
from mistralrs_onnx.ops.formats import Bytes

Order = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `first` to `last` of a matrix."""

    matrix: Matrix
    first: int
    last: int

    @property
    def format(self) -> str:
        return self.matrix.format

    @property
    def shape(self) -> tuple[int, int]:
        return self.last - self.first, self.matrix.shape[1]

    def rows(self, start: int, stop: int) -> Bytes:
        return self.matrix.rows(self.first + start, self.first + stop)


@dataclass(frozen=True, slots=True)
class Reordered:
    """A matrix whose row i is row `order[i]` of another."""

    matrix: Matrix
    order: Order

    @property
    def format(self) -> str:
        return self.matrix.format

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.order), self.matrix.shape[1]

    def rows(self, start: int, stop: int) -> Bytes:
        order = self.order[start:stop]
        first = int(order.min())
        return self.matrix.rows(first, int(order.max()) + 1)[order - first]


@dataclass(frozen=True, slots=True)
class Transposed:
    """A dense matrix whose columns are the rows of another; `itemsize`: bytes of an element. Reads all of it."""

    matrix: Matrix
    itemsize: int

    @property
    def format(self) -> str:
        return self.matrix.format

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[1], self.matrix.shape[0]

    def rows(self, start: int, stop: int) -> Bytes:
        whole = self.matrix.rows(0, self.matrix.shape[0])
        elements = whole.reshape(*self.matrix.shape, self.itemsize)[:, start:stop]
        return np.ascontiguousarray(elements.swapaxes(0, 1)).reshape(stop - start, -1)


def expert_part(matrix: Matrix, num_experts: int, expert: int) -> Part:
    """Of the matrices of all experts on top of each other, one."""
    rows = matrix.shape[0] // num_experts
    return Part(matrix, expert * rows, (expert + 1) * rows)


def halves_order(num_rows: int, head_size: int) -> Order:
    """Where row i of a head, first halves then second halves, lies when pairs are adjacent."""
    return np.arange(num_rows).reshape(-1, head_size // 2, 2).swapaxes(1, 2).reshape(-1)
