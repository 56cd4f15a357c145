"""Which tokens a row is drawn from: top-k, top-p, min-p, typical-p, and the draw; knows no requests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .core import Logits
from .exponentials import weigh
from .leading import Groups, Ids, Workspace, largest, leading
from .near import below, clear_nucleus, draw_near, near_tokens, temper
from .rows import Near
from .sampling import SamplingParams
from .sums import BLOCK, block_sums, dot, total

MOST_TRIES = 64  # of draws that may come to nothing
TINY = np.float32(1e-38)  # a weight of no weight


class Distribution(NamedTuple):
    """Tokens in ascending order (None: all of the vocabulary) and what each weighs, unnormalised."""

    token_ids: Ids | None
    weights: Logits

    def draw(self, u: float) -> int:
        """The token at `u` in [0, 1)."""
        place = inverse_cdf(self.weights, u)
        return place if self.token_ids is None else int(self.token_ids[place])


def distribution(
    groups: Groups, params: SamplingParams, token_ids: Ids | None = None, space: Workspace | None = None
) -> Distribution:
    """Of a row of logits whose largest is finite; `token_ids` are its tokens, if it is not the whole vocabulary.

    Temperature, then each filter over what the one before has left, in the order top-k, top-p, min-p, typical-p:

    - top-k: the k largest.
    - top-p: the fewest, largest first, that together have `top_p` of the probability (arXiv 1904.09751).
    - min-p: those with at least `min_p` of the largest probability (arXiv 2407.01082).
    - typical-p: the fewest, nearest to the entropy first, that have `typical_p` of the probability (arXiv 2202.00666).

    Of equals the lower id goes first. The weights may lie in `space`, until it is used again.
    """
    space = space or Workspace(len(groups.row))
    found = _found_first(groups, params, space)
    weights = found.weights
    if found.places is not None:
        token_ids = _of(token_ids, found.places)
    if params.top_p < 1 and not found.is_nucleus:
        kept = leading(weights, weights, params.top_p * total(weights), space)
        weights, token_ids = weights[kept], _of(token_ids, kept)
    if params.min_p > 0:
        kept = np.flatnonzero(weights >= params.min_p)
        weights, token_ids = weights[kept], _of(token_ids, kept)
    if params.typical_p < 1:
        kept = typical(weights, params.typical_p, space)
        weights, token_ids = weights[kept], _of(token_ids, kept)
    return Distribution(token_ids, weights)


class _Found(NamedTuple):
    """Places that the first filters keep (None: all), what they weigh, and whether top-p is among these filters."""

    places: Ids | None
    weights: Logits
    is_nucleus: bool = False


def _found_first(groups: Groups, params: SamplingParams, space: Workspace) -> _Found:
    """What can be told before exponentials of the whole row are taken."""
    places: Ids | None = None
    if 0 < params.top_k < len(groups.row):
        places = largest(groups, params.top_k, space)
    elif params.top_p < 1:
        near = near_tokens(groups, params.temperature)
        kept = None if near is None else clear_nucleus(near, params.top_p)
        if near is not None and kept is not None:
            return _Found(near.places[kept], near.weights[kept], is_nucleus=True)
    elif params.min_p > 0:
        distance = params.temperature * (1e-3 - math.log(params.min_p))  # and a little more, for rounding
        places = groups.at_least(below(groups.highest, distance))
    row = groups.row if places is None else groups.row[places]
    scaled = temper(row, groups.highest, params.temperature, space.scaled[: len(row)])
    return _Found(places, np.exp(scaled, out=space.weights[: len(row)]))


def _of(token_ids: Ids | None, kept: Ids) -> Ids:
    return kept if token_ids is None else token_ids[kept]


def draw_unfiltered(
    groups: Groups, temperature: float, near: Near | None, uniforms: Iterator[float], space: Workspace | None = None
) -> int:
    """A place of a row that temperature alone shapes, by as many numbers in [0, 1) as it takes."""
    if near is not None:
        for u in islice(uniforms, MOST_TRIES):
            place = draw_near(groups, near, temperature, u)
            if place is not None:
                return place
    weights, sums = weighed(groups, temperature, space or Workspace(len(groups.row)))
    return place_at(weights, np.cumsum(sums, dtype=np.float64), next(uniforms))


def weighed(groups: Groups, temperature: float, space: Workspace) -> tuple[Logits, Logits]:
    """What all tokens of a row weigh, and the sums of it by blocks."""
    if groups.known is not None and groups.known.weights is not None:
        return groups.known.weights
    weights = space.weights[: len(groups.row)]
    return weights, weigh(groups.row, groups.highest, temperature, weights)


def typical(weights: Logits, typical_p: float, space: Workspace | None = None) -> Ids:
    """Places kept. With p = w / Z, |-log p - H| is the distance of log w from its mean under p."""
    space = space or Workspace(len(weights))
    mass = total(weights)
    scaled = np.maximum(weights, TINY, out=space.scaled[: len(weights)])  # no 0, whose logarithm times 0 is no number
    np.log(scaled, out=scaled)
    mean = np.float32(dot(scaled, weights) / mass)
    keys = np.negative(np.abs(np.subtract(scaled, mean, out=scaled), out=scaled), out=scaled)
    kept = leading(keys, weights, typical_p * mass, space)
    return kept[weights[kept] > 0]


def inverse_cdf(weights: Logits, u: float) -> int:
    """The place where the sum of weights passes `u` of the total; one with weight, if any has."""
    if len(weights) <= BLOCK:
        mass = np.cumsum(weights, dtype=np.float64)
        return _passed(mass, u * float(mass[-1]))
    return place_at(weights, np.cumsum(block_sums(weights), dtype=np.float64), u)


def place_at(weights: Logits, mass: NDArray[np.float64], u: float) -> int:
    """As `inverse_cdf`, of weights whose `mass` up to the end of each block is at hand."""
    target = u * float(mass[-1])
    block = _passed(mass, target)
    before = float(mass[block - 1]) if block else 0.0
    inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    return block * BLOCK + _passed(inside, target - before)


def _passed(mass: NDArray[np.float64], target: float) -> int:
    """The first place beyond the target, which rounding may have put at the end, where none is."""
    return int(mass.searchsorted(min(target, math.nextafter(float(mass[-1]), 0)), side="right"))
