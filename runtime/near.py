"""What the likely tokens of a row tell about all of it, where the others weigh too little to matter.

The others are not looked at: they have at most what they had if each were the largest of its group.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .core import Logits
from .leading import GROUP, Groups, Ids, leading
from .rows import compiled_rows
from .sampling import SamplingParams
from .sums import dot, total

FAR = 14.0  # nats below the likeliest, where a token has less than a millionth of its probability
MOST = 2048  # tokens: where there are more, numpy is as quick
SAMPLED = 61  # of so many logits one is looked at to see whether a row is flat
ROUNDING = 1e-6  # of sums, relative


class Near(NamedTuple):
    """Tokens within FAR of the likeliest, ascending, and what they weigh, of which the likeliest has 1."""

    least: np.float32  # of their logits
    places: Ids
    weights: Logits
    mass: float
    rest: float  # the most that all others weigh


def near_tokens(groups: Groups, temperature: float) -> Near | None:
    """None if they are so many that looking at the whole row takes as long."""
    least = below(groups.highest, FAR * temperature)
    if _are_many(groups, least):
        return None
    most = len(groups.row) // 8
    if (rows := compiled_rows()) is not None:
        found = rows.near(groups.row, groups.maxima, GROUP, float(least), temperature, min(most, MOST))
        if found is not None:
            return Near(least, *found)
    places = groups.at_least(least)
    if len(places) > most:
        return None
    scaled = temper(groups.row[places], groups.highest, temperature)
    weights = np.exp(scaled, out=scaled)
    return Near(least, places, weights, total(weights), groups.weight_below(least, temperature))


def _are_many(groups: Groups, least: np.float32) -> bool:
    """Whether more than an eighth of the row is not less, as samples say."""
    if np.count_nonzero(groups.maxima >= least) <= len(groups.maxima) // 8:
        return False
    samples = groups.row[::SAMPLED]
    return int(np.count_nonzero(samples >= least)) > len(samples) // 8


def below(highest: np.float32, distance: float) -> np.float32:
    return np.float32(float(highest) - distance - 1e-5 * abs(float(highest)))


def temper(row: Logits, highest: np.float32, temperature: float, out: Logits | None = None) -> Logits:
    """Logarithms of probabilities relative to the likeliest token's, which is 0; -inf where they overflow."""
    scaled = np.subtract(row, highest, out=out)
    if temperature != 1:
        scaled /= np.float32(temperature)
    return scaled


def clear_nucleus(near: Near, top_p: float) -> Ids | None:
    """Which of the likely tokens top-p keeps, ascending, as indices of these; None if the others may matter.

    When the fewest that suffice without the others suffice with so much more, what these have does not matter.
    """
    kept = leading(near.weights, near.weights, top_p * near.mass)
    is_clear = total(near.weights[kept]) > top_p * (near.mass + near.rest) * (1 + ROUNDING)
    return kept if is_clear else None


def draw_near(groups: Groups, near: Near, temperature: float, u: float) -> int | None:
    """What a number in [0, 1) draws from the row, which is nothing for some: then draw again (von Neumann, 1951).

    Numbers stand for the weights of what is near, and behind these for slots of the others, each as wide as the most
    that it may weigh: only so much of a slot as it does weigh draws it.
    """
    mass = np.cumsum(near.weights, dtype=np.float64)
    offset = u * (float(mass[-1]) + near.rest)
    if offset < mass[-1]:
        return int(near.places[mass.searchsorted(offset, side="right")])
    place, inside = groups.slot_below(offset - float(mass[-1]), near.least, temperature)
    logit = groups.row[place]
    weight = math.exp((float(logit) - float(groups.highest)) / temperature)
    return place if logit < near.least and inside < weight else None


def is_clearly_in_nucleus(near: Near, place: int, top_p: float) -> bool | None:
    """Whether top-p keeps a place; None if the others may matter."""
    index = _index(near, place)
    if index is None:
        return None
    weight = near.weights[index]
    equals = np.count_nonzero(near.weights[:index] == weight)
    before = total(near.weights * (near.weights > weight)) + equals * float(weight)
    if before * (1 + ROUNDING) < top_p * near.mass:
        return True
    return False if before > top_p * (near.mass + near.rest) * (1 + ROUNDING) else None


def _index(near: Near, place: int) -> int | None:
    index = int(near.places.searchsorted(place))
    return index if index < len(near.places) and near.places[index] == place else None


def is_clearly_typical(groups: Groups, near: Near, place: int, params: SamplingParams) -> bool | None:
    """Whether typical-p keeps a place; None if the others may matter, or what is as typical.

    The others leave an interval for the mean of the logarithms. What is nearer to both of its ends than another
    is nearer to all between.
    """
    index = _index(near, place)
    if index is None:
        return None
    scaled = temper(groups.row[near.places], groups.highest, params.temperature)
    moment, with_rest = dot(scaled, near.weights), near.mass + near.rest
    lowest = (moment - groups.moment_below(near.least, params.temperature)) / near.mass
    is_nearer, is_as_near = np.ones(len(scaled), np.bool_), np.zeros(len(scaled), np.bool_)
    for mean in (lowest, moment / with_rest):
        distances = np.abs(scaled - np.float32(mean))
        is_nearer &= distances < distances[index]
        is_as_near |= distances <= distances[index]
    is_as_near[index] = False
    if (total(near.weights[is_as_near]) + near.rest) * (1 + ROUNDING) < params.typical_p * near.mass:
        return True
    return False if total(near.weights[is_nearer]) > params.typical_p * with_rest * (1 + ROUNDING) else None
