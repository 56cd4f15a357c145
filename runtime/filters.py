"""Which tokens a row is drawn from: top-k, top-p, min-p, typical-p, and the draw; knows no requests."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .core import Logits
from .leading import Groups, Ids, Workspace, largest, leading
from .sampling import SamplingParams

FAR = 14.0  # nats below the likeliest, where a token has less than a millionth of its probability
MODERATE = 60.0  # nats: exponentials of numbers up to it, and sums of these, are float32
TINY = np.float32(1e-38)  # a weight of no weight
BLOCK = 256  # weights that a draw adds up at once


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
    found = _found_by_logits(groups, params, space)
    row = groups.row
    if found.places is not None:
        row, token_ids = row[found.places], _of(token_ids, found.places)
    scaled = temper(row, groups.highest, params.temperature, space.scaled[: len(row)])
    weights = np.exp(scaled, out=space.weights[: len(row)])
    if params.top_p < 1 and not found.is_nucleus:
        kept = leading(weights, weights, params.top_p * float(weights.sum()), space)
        weights, token_ids = weights[kept], _of(token_ids, kept)
    if params.min_p > 0:
        kept = np.flatnonzero(weights >= params.min_p)
        weights, token_ids = weights[kept], _of(token_ids, kept)
    if params.typical_p < 1:
        kept = typical(weights, params.typical_p, space)
        weights, token_ids = weights[kept], _of(token_ids, kept)
    return Distribution(token_ids, weights)


class _Found(NamedTuple):
    """Places that the first filters keep (None: all), and whether top-p is among these."""

    places: Ids | None
    is_nucleus: bool


def _found_by_logits(groups: Groups, params: SamplingParams, space: Workspace) -> _Found:
    """What can be told before exponentials of the whole row are taken."""
    if 0 < params.top_k < len(groups.row):
        return _Found(largest(groups, params.top_k, space), is_nucleus=False)
    if params.top_p < 1:
        places = clear_nucleus(groups, params.top_p, params.temperature)
        return _Found(places, places is not None)
    if params.min_p > 0:
        distance = params.temperature * (1e-3 - math.log(params.min_p))  # and a little more, for rounding
        return _Found(groups.at_least(_below(groups.highest, distance)), is_nucleus=False)
    return _Found(None, is_nucleus=False)


def _below(highest: np.float32, distance: float) -> np.float32:
    return np.float32(float(highest) - distance - 1e-5 * abs(float(highest)))


def _of(token_ids: Ids | None, kept: Ids) -> Ids:
    return kept if token_ids is None else token_ids[kept]


def temper(row: Logits, highest: np.float32, temperature: float, out: Logits | None = None) -> Logits:
    """Logarithms of probabilities relative to the likeliest token's, which is 0; -inf where they overflow."""
    scaled = np.subtract(row, highest, out=out)
    if temperature != 1:
        scaled /= np.float32(temperature)
    return scaled


def clear_nucleus(groups: Groups, top_p: float, temperature: float) -> Ids | None:
    """What top-p keeps, ascending, if that can be told without the exponential of every logit; else None.

    Logits within FAR of the highest are added up. The others have at most what they had if each were the largest of
    its group: when the fewest that suffice without them suffice with so much more, what they have does not matter.
    """
    least = _below(groups.highest, FAR * temperature)
    places = groups.at_least(least)
    if len(places) > len(groups.row) // 8:
        return None
    weights = np.exp(temper(groups.row[places], groups.highest, temperature))
    total = float(weights.sum())
    kept = leading(weights, weights, top_p * total)
    with_rest = total + groups.weight_below(least, temperature)
    is_clear = float(weights[kept].sum()) > top_p * with_rest * (1 + 1e-6)
    return places[kept] if is_clear else None


def draw_unfiltered(groups: Groups, temperature: float, u: float, space: Workspace | None = None) -> int:
    """The place at `u` in [0, 1) of a row that temperature alone shapes.

    Logits within FAR of the highest come first, the others behind them. These have at most what they had if each were
    the largest of its group: mostly that, or nothing, moves `u` over the same place, and is not looked at.
    """
    least = _below(groups.highest, FAR * temperature)
    near = groups.at_least(least)
    space = space or Workspace(len(groups.row))
    if len(near) > len(groups.row) // 8:
        near = near[:0]
    mass = np.cumsum(np.exp(temper(groups.row[near], groups.highest, temperature)), dtype=np.float64)
    total = float(mass[-1]) if len(near) else 0.0
    most = groups.weight_below(least, temperature) * (1 + 1e-6)
    least_place, most_place = np.searchsorted(mass, [u * total, u * (total + most)], side="right").tolist()
    if least_place == most_place < len(near):
        return int(near[least_place])
    scaled = temper(groups.row, groups.highest, temperature, space.scaled[: len(groups.row)])
    weights = np.exp(scaled, out=scaled)
    weights[near] = 0
    rest = float(weights.sum())
    place = int(np.searchsorted(mass, u * (total + rest), side="right"))
    if place < len(near) or not rest:
        return int(near[min(place, len(near) - 1)])
    return inverse_cdf(weights, (u * (total + rest) - total) / rest)


def typical(weights: Logits, typical_p: float, space: Workspace | None = None) -> Ids:
    """Places kept. With p = w / Z, |-log p - H| is the distance of log w from its mean under p."""
    space = space or Workspace(len(weights))
    total = float(weights.sum())
    scaled = np.maximum(weights, TINY, out=space.scaled[: len(weights)])  # no 0, whose logarithm times 0 is no number
    np.log(scaled, out=scaled)
    mean = np.float32(float(np.multiply(scaled, weights, out=space.products[: len(weights)]).sum()) / total)
    keys = np.negative(np.abs(np.subtract(scaled, mean, out=scaled), out=scaled), out=scaled)
    kept = leading(keys, weights, typical_p * total, space)
    return kept[weights[kept] > 0]


def inverse_cdf(weights: Logits, u: float) -> int:
    """The place where the sum of weights passes `u` of the total; one with weight, if any has."""
    if len(weights) <= BLOCK:
        mass = np.cumsum(weights, dtype=np.float64)
        return _passed(mass, u * float(mass[-1]))
    return place_at(weights, block_mass(weights), u)


def block_mass(weights: Logits) -> NDArray[np.float64]:
    """What the weights up to the end of each block come to."""
    return np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), BLOCK)), dtype=np.float64)


def place_at(weights: Logits, mass: NDArray[np.float64], u: float) -> int:
    """As `inverse_cdf`, with their `block_mass` at hand."""
    target = u * float(mass[-1])
    block = _passed(mass, target)
    before = float(mass[block - 1]) if block else 0.0
    inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
    return block * BLOCK + _passed(inside, target - before)


def _passed(mass: NDArray[np.float64], target: float) -> int:
    """The first place beyond the target, which rounding may have put at the end, where none is."""
    return int(mass.searchsorted(min(target, math.nextafter(float(mass[-1]), 0)), side="right"))
