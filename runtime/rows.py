"""Passes over rows of logits that the sampler makes often, compiled from `native/rows.cpp`.

Numpy takes several for each of them. They hold the interpreter's lock, since they are shorter than waits for it may be.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_bool, c_double, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .native import library_file
from .sums import BLOCK, Floats

Ids = NDArray[np.int64]
Masses = NDArray[np.float64]

_TWO_DOUBLES = c_double * 2
_FLOAT32 = np.dtype(np.float32)


class Scores(NamedTuple):
    """Of a row of logits: the logarithm of the sum of exponentials, the largest, and how many are not less than one."""

    normalizer: float
    top: list[int]
    rank: int


class NearMass(NamedTuple):
    """Places, ascending, what they weigh, the sum of it, and the most that all others weigh."""

    places: Ids
    weights: Floats
    mass: float
    rest: float


class Rows:
    """All arrays are one-dimensional and contiguous, rows float32."""

    def __init__(self, file: Path) -> None:
        """Raises OSError for a file that is no library of ours."""
        library = ctypes.PyDLL(str(file))
        row, ids, size, number = c_void_p, c_void_p, c_int64, c_float
        self._scores = _declared(library, "scores", c_double, row, size, number, size, ids, POINTER(c_int64))
        self._weights = _declared(library, "weights", None, row, size, number, number, row, row)
        kept = row, row, size, c_void_p, size, c_double
        self._is_kept_of_largest = _declared(library, "is_kept_of_largest", c_bool, *kept)
        self._is_kept_of_nearest = _declared(library, "is_kept_of_nearest", c_bool, *kept, number)
        self._mask = _declared(library, "mask", None, row, size, c_void_p, row)
        near = row, size, size, row, number, number, size, ids, row, POINTER(c_double)
        self._near = _declared(library, "near", size, *near)
        self._repetitions = _declared(library, "repetitions", size, ids, size, ids, size, size, size, ids, ids)

    def scores(self, row: Floats, own: float, num_top: int) -> Scores:
        """`num_top` places of the largest, descending, of equals the lower first."""
        num_top, rank = min(num_top, len(row)), c_int64()
        top = np.empty(num_top, np.int64)
        normalizer = self._scores(_at_row(row), len(row), own, num_top, _at(top), rank)
        return Scores(normalizer, top.tolist(), rank.value)

    def weigh(self, row: Floats, highest: float, temperature: float, weights: Floats) -> Floats:
        """exp((x - highest) / temperature) of each, to `weights`; returns their sums by blocks."""
        sums = np.empty(-(-len(row) // BLOCK), np.float32)
        self._weights(_at_row(row), len(row), highest, temperature, _at(weights), _at(sums))
        return sums

    def is_kept_of_largest(self, values: Floats, weights: Floats, mass: Masses, place: int, target: float) -> bool:
        """Whether what is larger than what lies at the place, or as large and before it, weighs less than `target`.

        `mass`: of the weights up to the end of each block.
        """
        sizes = len(values), _at(mass), place, target
        kept: bool = self._is_kept_of_largest(_at_row(values), _at_row(weights), *sizes)
        return kept

    def is_kept_of_nearest(
        self, values: Floats, weights: Floats, mass: Masses, place: int, target: float, centre: float
    ) -> bool:
        """The same of what is nearer to the centre."""
        sizes = len(values), _at(mass), place, target, centre
        kept: bool = self._is_kept_of_nearest(_at_row(values), _at_row(weights), *sizes)
        return kept

    def mask(self, row: Floats, bitmask: NDArray[np.int32], out: Floats) -> None:
        """Numbers whose bit is set, and -inf elsewhere."""
        self._mask(_at_row(row), len(row), _at(bitmask), _at(out))

    def near(
        self, row: Floats, maxima: Floats, group: int, least: float, temperature: float, most: int
    ) -> NearMass | None:
        """Of what is not less than `least`; None if that is more than `most`. `maxima`: as of `leading.Groups`."""
        places, weights, masses = np.empty(most, np.int64), np.empty(most, np.float32), _TWO_DOUBLES()
        sizes = len(row), group, _at(maxima), least, temperature, most
        count = self._near(_at_row(row), *sizes, _at(places), _at(weights), masses)
        return None if count < 0 else NearMass(places[:count], weights[:count], *masses)

    def repetitions(self, context: Ids, breakers: Ids, at_least: int, most: int) -> tuple[Ids, Ids]:
        """What followed earlier occurrences of the last `at_least` tokens, and their lengths, up to `most`.

        Breakers end an occurrence and are no token to follow.
        """
        tokens, lengths = np.empty((2, len(context)), np.int64)
        sizes = len(breakers), at_least, most
        count = self._repetitions(_at(context), len(context), _at(breakers), *sizes, _at(tokens), _at(lengths))
        return tokens[:count], lengths[:count]


@cache
def compiled_rows() -> Rows | None:
    """None where nothing was compiled, or it does not load: numpy does the same."""
    file = library_file()
    try:
        return None if file is None else Rows(file)
    except (OSError, AttributeError):
        return None


def _declared(library: ctypes.PyDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[f"mistralrs_{name}"]
    function.restype, function.argtypes = result, arguments
    return function


def _at(array: Any) -> Any:  # mypy does not know that arrays are buffers
    """Where the array lies; a quarter of the time of `array.ctypes.data`."""
    try:
        return ctypes.byref(ctypes.c_byte.from_buffer(array))
    except ValueError:
        assert not array.size
        return None
    except TypeError:
        assert array.flags.c_contiguous
        return array.ctypes.data  # it is not to be written to


def _at_row(row: Floats) -> Any:
    assert row.dtype is _FLOAT32, f"a row of {row.dtype}"
    return _at(row)
