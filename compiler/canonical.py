"""A checkpoint's weights under canonical names and in canonical rows, whatever file they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from mistralrs_onnx.graphs.weights import DENSE, Matrix
from mistralrs_onnx.ops.formats import Float32

from .errors import CompileError
from .naming import Naming, Place, Shape, places
from .views import Order, Part, Reordered, Transposed, halves_order


class Stored(Protocol):
    """Tensors under the names that their checkpoint gives them. `expert` selects on the first axis."""

    @property
    def shapes(self) -> Mapping[str, Shape]: ...

    def type(self, name: str) -> str: ...

    def matrix(self, name: str, expert: int | None = None) -> Matrix:
        """Raises CompileError for a type that we do not compute with."""

    def vector(self, name: str, expert: int | None = None) -> Float32:
        """Raises CompileError for a type that is not dense."""


class CanonicalWeights:
    """Weights as graphs ask for them (`graphs.weights.Weights`)."""

    def __init__(self, stored: Stored, naming: Naming, head_size: int) -> None:
        self._stored = stored
        self._naming = naming
        self._head_size = head_size
        self._places = places(stored.shapes, naming)
        self._shapes: Mapping[str, Shape] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def type(self, name: str) -> str:
        """Of the tensor in the checkpoint."""
        return self._stored.type(self._places[name].stored)

    def matrix(self, name: str) -> Matrix:
        place = self._places[name]
        matrix = self._stored.matrix(place.stored, place.expert)
        if self._is_transposed(name, matrix):
            matrix = Transposed(matrix, DENSE[matrix.format].itemsize)
        if place.is_interleaved:
            matrix = Reordered(matrix, self._every(name, place, matrix.shape[0]))
        elif place.siblings:
            matrix = Part(matrix, *self._range(name, place))
        if self._is(name, self._naming.permuted):
            matrix = Reordered(matrix, halves_order(matrix.shape[0], self._head_size))
        return matrix

    def vector(self, name: str) -> Float32:
        place = self._places[name]
        vector = self._stored.vector(place.stored, place.expert)
        if place.is_interleaved:
            vector = vector[self._every(name, place, len(vector))]
        elif place.siblings:
            vector = vector[slice(*self._range(name, place))]
        if self._is(name, self._naming.permuted):
            vector = vector[halves_order(len(vector), self._head_size)]
        return vector + np.float32(1) if self._is(name, self._naming.raised) else vector

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Raises CompileError unless exactly these weights, and biases of them, are there, in these shapes.

        Must come before reading: where several weights share a tensor, only their shapes say which rows are whose.
        """
        self._shapes = shapes
        for name, shape in shapes.items():
            if name not in self._places:
                raise CompileError(f"the checkpoint has no tensor for {name}: it is damaged or of another architecture")
            self._check_shape(name, shape)
        for name, place in self._places.items():
            weight = f"{name.removesuffix('.bias')}.weight"
            if name in shapes:
                continue
            if not name.endswith(".bias") or weight not in shapes:
                raise CompileError(f"tensor {place.stored} is not part of this architecture: the result would be wrong")
            self._check_shape(name, shapes[weight][:1])

    def _check_shape(self, name: str, shape: Shape) -> None:
        place = self._places[name]
        stored = self._stored.shapes[place.stored]
        got = stored if place.expert is None else stored[1:]
        wanted = (sum(self._rows(each) for each in place.siblings), *shape[1:]) if place.siblings else shape
        if len(got) == 2 and self._is_transposed(name, self._stored.matrix(place.stored, place.expert)):
            got = got[::-1]
        if len(got) < len(wanted):
            got = (1, *got)  # a matrix of one row may be stored without that axis
        if got != wanted:
            raise CompileError(f"tensor {place.stored} has shape {got}, {name} needs {wanted}")

    def _rows(self, name: str) -> int:
        name = name if name in self._shapes else f"{name.removesuffix('.bias')}.weight"
        if name not in self._shapes:
            raise CompileError(f"{name} is not part of this architecture: the result would be wrong")
        return self._shapes[name][0]

    def _range(self, name: str, place: Place) -> tuple[int, int]:
        index = place.siblings.index(name)
        first = sum(self._rows(each) for each in place.siblings[:index])
        return first, first + self._rows(name)

    def _every(self, name: str, place: Place, num_rows: int) -> Order:
        return np.arange(place.siblings.index(name), num_rows, len(place.siblings))

    def _is_transposed(self, name: str, matrix: Matrix) -> bool:
        """Packed matrices always have K along their rows."""
        return matrix.format in DENSE and self._is(name, self._naming.transposed)

    def _is(self, name: str, endings: tuple[str, ...]) -> bool:
        return bool(endings) and name.removesuffix(".weight").removesuffix(".bias").endswith(endings)
