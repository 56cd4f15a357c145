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

from .native import instruction_set, library_file
from .sums import BLOCK, Floats

Ids = NDArray[np.int64]
Masses = NDArray[np.float64]

VECTORS = {"amx": "avx512", "avx512": "avx512", "avxvnni": "avx2", "avx2": "avx2"}  # by sets of instructions
_FLOAT32 = np.dtype(np.float32)


class Near(NamedTuple):
    """Likely tokens of a row, ascending, what they weigh, of which the likeliest has 1, and sums of it."""

    least: float  # of their logits
    places: Ids
    weights: Floats
    ends: Masses  # sums of weights up to each
    rest: float  # the most that all others weigh

    @property
    def mass(self) -> float:
        return float(self.ends[-1])


class Rows:
    """All arrays are one-dimensional and contiguous, rows float32."""

    def __init__(self, file: Path, vectors: str) -> None:
        """`vectors`: avx2 or avx512. Raises OSError or AttributeError for a file that is no library of ours."""
        library = ctypes.PyDLL(str(file))
        row, ids, size, number = c_void_p, c_void_p, c_int64, c_float
        self._together = _declared(library, f"{vectors}_together", None, c_void_p, size, size, size)
        self._overview = _declared(library, f"{vectors}_overview", c_double, row, size, row, row)
        self._top = _declared(library, f"{vectors}_top", size, row, size, row, size, ids)
        self._rank = _declared(library, f"{vectors}_rank", size, row, size, row, number)
        self._weights = _declared(library, f"{vectors}_weights", None, row, size, number, number, row, row)
        kept = row, row, size, c_void_p, size, c_double
        self._is_kept_of_largest = _declared(library, f"{vectors}_is_kept_of_largest", c_bool, *kept)
        self._is_kept_of_nearest = _declared(library, f"{vectors}_is_kept_of_nearest", c_bool, *kept, number)
        self._mass_ahead = _declared(library, f"{vectors}_mass_ahead", c_double, row, size, size)
        self._maxima = _declared(library, f"{vectors}_maxima", number, row, size, size, row)
        self._mask = _declared(library, f"{vectors}_mask", None, row, size, c_void_p, row)
        near = row, size, size, row, number, number, number, size, ids, row, c_void_p, POINTER(c_double)
        self._near = _declared(library, f"{vectors}_near", size, *near)
        self._repeat = _declared(library, "repeat", c_bool, row, size, ids, size, number)
        self._count = _declared(library, "count", c_bool, row, size, ids, size, number, number)
        self._dry = _declared(library, "dry", c_bool, row, size, ids, size, ids, size, size, row, size)

    def together(self, jobs: ctypes.Array[Any], num_tokens: int, num_threads: int) -> None:
        """Does what jobs say, as of `together.py`, each about a row of so many tokens."""
        self._together(jobs, len(jobs), num_tokens, num_threads)

    def overview(self, row: Floats) -> tuple[float, Floats]:
        """The logarithm of the sum of exponentials, and the largest of each block."""
        highest = np.empty(-(-len(row) // BLOCK), np.float32)
        normalizer = self._overview(_at_row(row), len(row), None, _at(highest))
        return normalizer, highest

    def top(self, row: Floats, highest: Floats, num_top: int) -> list[int]:
        """`num_top` places of the largest, descending, of equals the lower first. `highest`: of each block."""
        top = np.empty(min(num_top, len(row)), np.int64)
        num_found = self._top(_at_row(row), len(row), _at(highest), len(top), _at(top))
        places: list[int] = top[:num_found].tolist()
        return places

    def rank(self, row: Floats, highest: Floats, own: float) -> int:
        """How many are not less than `own`. `highest`: of each block."""
        rank: int = self._rank(_at_row(row), len(row), _at(highest), own)
        return rank

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

    def mass_ahead(self, weights: Floats, place: int) -> float:
        """Of what is larger than what lies at the place, or as large and before it."""
        mass: float = self._mass_ahead(_at_row(weights), len(weights), place)
        return mass

    def maxima(self, row: Floats, group: int, out: Floats) -> float:
        """To `out`, as of `leading.Groups`; returns the largest of all, NaN if there is any."""
        highest: float = self._maxima(_at_row(row), len(row), group, _at(out))
        return highest

    def mask(self, row: Floats, bitmask: NDArray[np.int32], out: Floats) -> None:
        """Numbers whose bit is set, and -inf elsewhere."""
        self._mask(_at_row(row), len(row), _at(bitmask), _at(out))

    def near(
        self, row: Floats, maxima: Floats, group: int, highest: float, least: float, temperature: float, most: int
    ) -> Near | None:
        """Of what is not less than `least`; None if that is more than `most`. `maxima`: as of `leading.Groups`."""
        places, weights, ends, rest = np.empty(most, np.int64), np.empty(most, np.float32), np.empty(most), c_double()
        sizes = len(row), group, _at(maxima), highest, least, temperature, most
        count = self._near(_at_row(row), *sizes, _at(places), _at(weights), _at(ends), rest)
        return None if count < 0 else Near(least, places[:count], weights[:count], ends[:count], rest.value)

    def repeat(self, row: Floats, seen: Ids, penalty: float) -> None:
        """As `penalties.repeat`. Raises IndexError."""
        if not self._repeat(_at_row(row), len(row), _at(seen), len(seen), penalty):
            raise _no_place(row, seen)

    def count(self, row: Floats, output: Ids, frequency: float, presence: float) -> None:
        """As `penalties.count`. Raises IndexError."""
        if not self._count(_at_row(row), len(row), _at(output), len(output), frequency, presence):
            raise _no_place(row, output)

    def dry(self, row: Floats, context: Ids, breakers: Ids, at_least: int, losses: Floats) -> None:
        """As `penalties.dry`. `losses`: of repetitions of `at_least` tokens, one more, ... Raises IndexError."""
        sizes = len(breakers), at_least, _at(losses), len(losses)
        if not self._dry(_at_row(row), len(row), _at(context), len(context), _at(breakers), *sizes):
            raise _no_place(row, context)


@cache
def compiled_rows() -> Rows | None:
    """None where there are no kernels of ours, or older ones: numpy does the same."""
    file, kernels = library_file(), instruction_set()
    try:
        return None if file is None or kernels is None else Rows(file, VECTORS[kernels])
    except (OSError, AttributeError):
        return None


def _declared(library: ctypes.PyDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[f"mistralrs_{name}"]
    function.restype, function.argtypes = result, arguments
    return function


def _no_place(row: Floats, places: Ids) -> IndexError:
    return IndexError(f"places from {places.min()} to {places.max()} in a row of {len(row)}")


def address(array: Any) -> int:
    """Of a contiguous array."""
    try:
        return ctypes.addressof(ctypes.c_byte.from_buffer(array))
    except (ValueError, TypeError):  # it is empty, or not to be written to
        data: int = array.ctypes.data
        return data


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
