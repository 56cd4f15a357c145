"""Draws from rows of which a filter keeps much: from all tokens, until one comes that the filter keeps.

What is drawn follows the filtered probabilities exactly (von Neumann, 1951), and nobody has to find out what else is
kept: for the token at hand it takes the mass of those that go before it, of as much of the row as decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from .core import Logits
from .filters import MOST_TRIES, TINY, draw_unfiltered, place_at, weighed
from .leading import Groups, Workspace
from .near import is_clearly_in_nucleus, is_clearly_typical, near_tokens
from .rows import compiled_rows
from .sampling import SamplingParams
from .sums import BLOCK, dot

SMALLEST = 4096  # tokens of a row: shorter ones are filtered as quickly
LEAST_SHARE = 0.5  # of the probability: less would be drawn too often in vain
LOWEST = math.log(TINY)
PIECE = 128 * BLOCK  # tokens looked at before it is asked whether they decide

Uniforms = Iterator[float]  # in [0, 1), endless


def draw_kept(groups: Groups, params: SamplingParams, uniforms: Uniforms, space: Workspace) -> int | None:
    """A place of the row. None where filters are better worked out: several of them, and those that keep little."""
    if len(groups.row) < SMALLEST or params.top_k > 0 or params.min_p > 0:
        return None
    if min(params.top_p, params.typical_p) < LEAST_SHARE or max(params.top_p, params.typical_p) < 1:
        return None
    make = by_weight if params.top_p < 1 else by_typicality
    near = near_tokens(groups, params.temperature)
    if near is None:
        return make(groups, params, space).draw(uniforms)
    for _ in range(MOST_TRIES):
        place = draw_unfiltered(groups, params.temperature, near, uniforms, space)
        if params.top_p < 1:
            is_kept = is_clearly_in_nucleus(near, place, params.top_p)
        else:
            is_kept = is_clearly_typical(groups, near, place, params)
        if is_kept is None:
            is_kept = make(groups, params, space).is_kept(place)
        if is_kept:
            return place
    return None


@dataclass(frozen=True, slots=True)
class Order:
    """In which a filter takes the tokens of a row until it has its share of the weights.

    The largest of `values` goes first, or with a `centre` the nearest to it; of equals the lower place.
    """

    values: Logits
    weights: Logits
    mass: NDArray[np.float64]  # up to the end of each block
    share: float
    marks: Logits  # to write to, as all that is not given
    distances: Logits
    centre: np.float32 | None = None

    def draw(self, uniforms: Uniforms) -> int | None:
        for u in islice(uniforms, MOST_TRIES):
            place = place_at(self.weights, self.mass, u)
            if self.is_kept(place):
                return place
        return None

    def is_kept(self, place: int) -> bool:
        """Whether what goes before weighs less than the share. Ends where the rest of the row cannot change it."""
        target = self.share * float(self.mass[-1])
        if (rows := compiled_rows()) is not None:
            row = self.values, self.weights, self.mass, place, target
            if self.centre is None:
                return rows.is_kept_of_largest(*row)
            return rows.is_kept_of_nearest(*row, float(self.centre))
        key, before = self._keys(slice(place, place + 1))[0], 0.0
        for begin in range(0, len(self.weights), PIECE):
            piece = slice(begin, min(begin + PIECE, len(self.weights)))
            marks = self._marked(self._keys(piece), max(place - piece.start, 0), key)
            before += dot(self.weights[piece], marks)
            rest = float(self.mass[-1] - self.mass[(piece.stop - 1) // BLOCK])
            if before >= target or before + rest < target:
                break
        return before < target

    def _keys(self, piece: slice) -> Logits:
        if self.centre is None:
            return self.values[piece]
        found = np.subtract(self.values[piece], self.centre, out=self.distances[: piece.stop - piece.start])
        return np.abs(found, out=found)

    def _marked(self, keys: Logits, split: int, key: np.float32) -> Logits:
        """1 for what goes before, else 0."""
        marks = self.marks[: len(keys)]
        is_ahead = np.greater if self.centre is None else np.less
        is_ahead_or_equal = np.greater_equal if self.centre is None else np.less_equal
        is_ahead_or_equal(keys[:split], key, out=marks[:split])
        is_ahead(keys[split:], key, out=marks[split:])
        return marks


def by_weight(groups: Groups, params: SamplingParams, space: Workspace) -> Order:
    """That of top-p."""
    weights, mass = _weighed(groups, params.temperature, space)
    return Order(weights, weights, mass, params.top_p, space.marks, space.products)


def by_typicality(groups: Groups, params: SamplingParams, space: Workspace) -> Order:
    """That of typical-p, as `filters.typical`: logits nearest to their mean are nearest to the entropy."""
    row = groups.row
    weights, mass = _weighed(groups, params.temperature, space)
    with np.errstate(invalid="ignore"):  # nothing of infinity is no number
        moment = dot(row, weights)
    if math.isnan(moment):
        lowest = np.float32(float(groups.highest) + params.temperature * LOWEST)
        row = np.clip(row, lowest, np.float32(np.inf), out=space.scaled[: len(row)])
        moment = dot(row, weights)
    mean = np.float32(moment / float(mass[-1]))
    return Order(row, weights, mass, params.typical_p, space.marks, space.products, mean)


def _weighed(groups: Groups, temperature: float, space: Workspace) -> tuple[Logits, NDArray[np.float64]]:
    """Weights, and the sums up to the end of each block of them."""
    weights, sums = weighed(groups, temperature, space)
    return weights, np.cumsum(sums, dtype=np.float64)
