"""What the likely tokens of a row tell about all of it, where the others weigh too little to matter.

The others are not looked at: they have at most what they had if each were the largest of its group.
"""

from __future__ import annotations

import math

import numpy as np

from .core import Logits
from .leading import GROUP, Groups, Ids, leading
from .rows import Near, compiled_rows
from .sampling import SamplingParams
from .sums import dot, total

FAR = 14.0  # nats below the likeliest, where a token has less than a millionth of its probability
SAMPLED = 61  # of so many logits one is looked at to see whether a row is flat
ROUNDING = 1e-6  # of sums, relative


def near_tokens(groups: Groups, temperature: float) -> Near | None:
    """Those within FAR of the likeliest; None if they are so many that looking at the whole row takes as long."""
    if groups.known is not None:
        return groups.known.near
    least, most = below(groups.highest, FAR * temperature), len(groups.row) // 8
    if (rows := compiled_rows()) is not None:
        return rows.near(groups.row, groups.maxima, GROUP, float(groups.highest), float(least), temperature, most)
    if _are_many(groups, least):
        return None
    places = groups.at_least(least)
    if len(places) > most:
        return None
    scaled = temper(groups.row[places], groups.highest, temperature)
    weights = np.exp(scaled, out=scaled)
    ends = np.cumsum(weights, dtype=np.float64)
    return Near(float(least), places, weights, ends, groups.weight_below(least, temperature))


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
    mass = near.mass
    offset = u * (mass + near.rest)
    if offset < mass:
        return int(near.places[near.ends.searchsorted(offset, side="right")])
    place, inside = groups.slot_below(offset - mass, near.least, temperature)
    logit = groups.row[place]
    weight = math.exp((float(logit) - float(groups.highest)) / temperature)
    return place if logit < near.least and inside < weight else None


def is_clearly_in_nucleus(near: Near, place: int, top_p: float) -> bool | None:
    """Whether top-p keeps a place; None if the others may matter."""
    index = _index(near, place)
    if index is None:
        return None
    before = _mass_ahead(near.weights, index)
    if before * (1 + ROUNDING) < top_p * near.mass:
        return True
    return False if before > top_p * (near.mass + near.rest) * (1 + ROUNDING) else None


def _mass_ahead(weights: Logits, index: int) -> float:
    """Of what is larger than the weight there, or as large and before it."""
    if (rows := compiled_rows()) is not None:
        return rows.mass_ahead(weights, index)
    weight = weights[index]
    equals = np.count_nonzero(weights[:index] == weight)
    return total(weights * (weights > weight)) + equals * float(weight)


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
