"""The largest of many numbers without sorting them all; knows arrays alone.

A vocabulary has 150,000 tokens and a choice looks at a few: one pass finds the largest of each group of logits, and
what is far from the highest is left out by groups.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rows import Near, compiled_rows

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
Number = float | np.float32

GROUP = 64  # numbers of which the largest stands for all
SORTED = 2048  # up to so many keys are sorted; more are narrowed down first
SAMPLED = 1024  # keys whose order tells where to narrow
LOWEST = np.float32(-120)  # its exponential is 0, as that of -infinity, but 0 times it is a number
SPREAD = 3  # standard deviations that the rank of a sample may be off


class Workspace:
    """Rows to work in, for one row of logits at a time: new arrays of their size would be paged in every time."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.edited, self.scaled, self.weights = np.empty((3, num_tokens), np.float32)
        self.products = np.empty(num_tokens + 31, np.float32)  # and masks, of whole words
        self.marks = np.empty(num_tokens, np.float32)
        self.above, self.wider = np.empty((2, num_tokens), np.bool_)


class Known(NamedTuple):
    """What was found out about a row before: `maxima` of its groups, and what `near_tokens` and `weigh` say of it.

    `weights`, and their sums by blocks: None where few tokens are near, or nobody asked.
    """

    maxima: Floats
    highest: float
    near: Near | None
    weights: tuple[Floats, Floats] | None = None


class Groups:
    """One row of numbers and the largest of each group. Groups are columns; what does not fill them stands alone."""

    def __init__(self, row: Floats, known: Known | None = None) -> None:
        self.row, self.known = row, known
        self._num_groups, num_alone = divmod(len(row), GROUP)
        self.maxima: Floats = known.maxima if known else np.empty(self._num_groups + num_alone, np.float32)
        self.highest = np.float32(known.highest if known else self._find_maxima())

    @property
    def _columns(self) -> Floats:
        return self.row[: GROUP * self._num_groups].reshape(GROUP, self._num_groups)

    def _find_maxima(self) -> Number:
        """Of the groups, and returns that of all; NaN if there is any."""
        if (rows := compiled_rows()) is not None:
            return rows.maxima(self.row, GROUP, self.maxima)
        np.maximum.reduce(self._columns, axis=0, out=self.maxima[: self._num_groups])
        self.maxima[self._num_groups :] = self.row[GROUP * self._num_groups :]
        highest: np.float32 = np.maximum.reduce(self.maxima)
        return highest

    def bound(self, count: int) -> np.float32:
        """Under which none of the `count` largest lies."""
        if count >= len(self.maxima):
            return np.float32(-np.inf)
        return np.float32(np.partition(self.maxima, -count)[-count])

    def at_least(self, least: np.float32) -> Ids:
        """Ascending places of what is not less."""
        found = (self.maxima >= least).nonzero()[0]
        if len(found) > self._num_groups // 8 or not self._num_groups:
            return np.flatnonzero(self.row >= least)
        count = int(found.searchsorted(self._num_groups))
        groups, alone = found[:count], found[count:] + (GROUP - 1) * self._num_groups
        if not count:
            return alone
        inside = self._columns.take(groups, axis=1) >= least
        lines, columns = np.divmod(inside.ravel().nonzero()[0], count)
        places = lines * self._num_groups + groups[columns]
        return np.concatenate([places, alone]) if len(alone) else places

    def weight_below(self, least: Number, temperature: float) -> float:
        """At least the sum of exp((x - highest) / temperature) over all x under `least`."""
        scaled = self._scaled_below(least, temperature)
        return self._of_all(np.exp(scaled, out=scaled))

    def moment_below(self, least: Number, temperature: float) -> float:
        """At least the sum of -s exp(s), s = (x - highest) / temperature, over all x under `least`, whose s <= -1."""
        scaled = np.clip(self._scaled_below(least, temperature), LOWEST, 0)
        return -self._of_all(scaled * np.exp(scaled))

    def slot_below(self, offset: float, least: Number, temperature: float) -> tuple[int, float]:
        """Which place has `offset`, and how far inside, where each has as much as `weight_below` counts for it."""
        each = np.exp(self._scaled_below(least, temperature)).astype(np.float64)
        ends = each.copy()
        ends[: self._num_groups] *= GROUP
        np.cumsum(ends, out=ends)
        group = int(ends.searchsorted(offset, side="right"))
        if group == len(ends):  # by rounding
            return len(self.row) - 1, math.inf
        inside = offset - (float(ends[group - 1]) if group else 0.0)
        if group >= self._num_groups:
            return group + (GROUP - 1) * self._num_groups, inside
        line = min(int(inside / each[group]), GROUP - 1)
        return line * self._num_groups + group, inside - line * float(each[group])

    def _scaled_below(self, least: Number, temperature: float) -> Floats:
        scaled: Floats = (np.minimum(self.maxima, least) - self.highest) / np.float32(temperature)
        return scaled

    def _of_all(self, values: Floats) -> float:
        """The sum of values of which whole groups have one."""
        return GROUP * float(values[: self._num_groups].sum()) + float(values[self._num_groups :].sum())


def largest(groups: Groups, count: int, space: Workspace | None = None) -> Ids:
    """Ascending places of the `count` largest of a row; of equals the lower place goes first."""
    places = groups.at_least(groups.bound(count))
    return places[leading(groups.row[places], None, count, space)]


def leading(keys: Floats, weights: Floats | None, target: float, space: Workspace | None = None) -> Ids:
    """Places, ascending, of the fewest entries whose weights (None: 1 each) reach `target`, the largest key first.

    At least one; all of them if they do not reach it. Of equal keys the lower place goes first. Keys are not sorted
    but in a band around the last entry kept, which the ranks of a sample bracket: wrong brackets cost time only.
    """
    if len(keys) <= SORTED:
        return _sorted_leading(keys, weights, target)
    space = space or Workspace(len(keys))
    above, wider = space.above[: len(keys)], space.wider[: len(keys)]
    step = len(keys) // SAMPLED
    order = np.argsort(-keys[::step])
    sample = keys[::step][order]
    np.greater_equal(keys, sample[0], out=above)
    mass = mass_of(above, weights, space)
    if mass >= target:
        return _narrowed(None, above, keys, weights, target)
    each = np.full(len(sample), step) if weights is None else weights[::step][order] * np.float32(step)
    rank = int(np.searchsorted(mass + np.cumsum(each[1:], dtype=np.float64), target)) + 1
    spread = SPREAD * math.isqrt(rank * max(0, len(sample) - rank) // len(sample)) + SPREAD
    for place in (max(rank - spread, 0), min(rank + spread, len(sample) - 1)):
        np.greater_equal(keys, sample[place], out=wider)
        more = mass_of(wider, weights, space)
        if more >= target:
            return _narrowed(above, np.greater(wider, above, out=wider), keys, weights, target - mass)
        above, wider, mass = wider, above, more
    return _narrowed(above, np.logical_not(above, out=wider), keys, weights, target - mass)


def _narrowed(above: Mask | None, band: Mask, keys: Floats, weights: Floats | None, target: float) -> Ids:
    """All that is `above`, and the leading of the `band`; a band of everything is sorted, so that this ends."""
    places = np.flatnonzero(band)
    inside = keys[places], None if weights is None else weights[places], target
    kept = places[_sorted_leading(*inside) if len(places) == len(keys) else leading(*inside)]
    if above is None:
        return kept
    above[kept] = True
    return np.flatnonzero(above)


def _sorted_leading(keys: Floats, weights: Floats | None, target: float) -> Ids:
    order = np.argsort(-keys, kind="stable")
    if weights is None:
        return np.sort(order[: max(1, math.ceil(target))])
    mass = np.cumsum(weights[order], dtype=np.float64)
    return np.sort(order[: int(np.searchsorted(mass, target)) + 1])


def mass_of(mask: Mask, weights: Floats | None, space: Workspace) -> float:
    """Not a dot product, whose bits could depend on the threads of a BLAS."""
    count = np.count_nonzero(mask)
    if weights is None:
        return float(count)
    if count < len(mask) // 8:
        return float(weights[np.flatnonzero(mask)].sum())
    return float(np.multiply(weights, mask, out=space.products[: len(mask)]).sum())
