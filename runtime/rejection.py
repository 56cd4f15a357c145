"""Draws from rows of which a filter keeps much: from all tokens, until one comes that the filter keeps.

What is drawn follows the filtered probabilities exactly (von Neumann, 1951), and nobody has to find out what else is
kept: for the token at hand it takes the mass of those that go before it, of as much of the row as decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from .core import Logits
from .exponentials import MODERATE, exponentials, weights_of
from .filters import MOST_TRIES, TINY, block_mass, draw_unfiltered, place_at
from .leading import Groups, Workspace
from .near import is_clearly_in_nucleus, is_clearly_typical, near_tokens
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

    `keys` of a slice of the row; ufuncs tell how those that go first compare with others. Of equals the lower place
    goes first.
    """

    weights: Logits
    mass: NDArray[np.float64]  # up to the end of each block
    share: float
    keys: Callable[[slice], Logits]
    is_ahead: np.ufunc
    is_ahead_or_equal: np.ufunc
    marks: Logits  # to write to

    def draw(self, uniforms: Uniforms) -> int | None:
        for u in islice(uniforms, MOST_TRIES):
            place = place_at(self.weights, self.mass, u)
            if self.is_kept(place):
                return place
        return None

    def is_kept(self, place: int) -> bool:
        """Whether what goes before weighs less than the share. Ends where the rest of the row cannot change it."""
        key, before = self.keys(slice(place, place + 1))[0], 0.0
        target = self.share * float(self.mass[-1])
        for begin in range(0, len(self.weights), PIECE):
            piece = slice(begin, min(begin + PIECE, len(self.weights)))
            before += dot(self.weights[piece], self._marked(piece, place, key))
            rest = float(self.mass[-1] - self.mass[(piece.stop - 1) // BLOCK])
            if before >= target or before + rest < target:
                break
        return before < target

    def _marked(self, piece: slice, place: int, key: np.float32) -> Logits:
        """1 for what goes before the place, else 0."""
        keys, marks = self.keys(piece), self.marks[: piece.stop - piece.start]
        split = min(max(place - piece.start, 0), len(keys))
        self.is_ahead_or_equal(keys[:split], key, out=marks[:split])
        self.is_ahead(keys[split:], key, out=marks[split:])
        return marks


def by_weight(groups: Groups, params: SamplingParams, space: Workspace) -> Order:
    """That of top-p."""
    weights = weights_of(groups.row, groups.highest, params.temperature, space.weights[: len(groups.row)])
    mass = block_mass(weights)
    return Order(weights, mass, params.top_p, weights.__getitem__, np.greater, np.greater_equal, space.marks)


def by_typicality(groups: Groups, params: SamplingParams, space: Workspace) -> Order:
    """That of typical-p, as `filters.typical`: logits nearest to their mean are nearest to the entropy."""
    row = groups.row
    if abs(float(groups.highest)) > MODERATE * params.temperature:
        row = np.subtract(row, groups.highest, out=space.scaled[: len(row)])
    weights = exponentials(row, 1 / params.temperature, space.weights[: len(row)])
    with np.errstate(invalid="ignore"):  # nothing of infinity is no number
        moment = dot(row, weights)
    if math.isnan(moment):
        lowest = np.float32(float(row.max()) + params.temperature * LOWEST)
        row = np.clip(row, lowest, np.float32(np.inf), out=space.scaled[: len(row)])
        moment = dot(row, weights)
    mass = block_mass(weights)
    mean = np.float32(moment / float(mass[-1]))

    def distances(piece: slice) -> Logits:
        found = np.subtract(row[piece], mean, out=space.products[piece])
        return np.abs(found, out=found)

    return Order(weights, mass, params.typical_p, distances, np.less, np.less_equal, space.marks)
