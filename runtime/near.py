"""What the likely tokens of a row tell about all of it, where the others weigh too little to matter.

The others are not looked at: they have at most what they had if each were the largest of its group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .core import Logits
from .leading import Groups, Ids, leading
from .sampling import SamplingParams
from .sums import dot, total

FAR = 14.0  # nats below the likeliest, where a token has less than a millionth of its probability
ROUNDING = 1e-6  # of sums, relative


class Near(NamedTuple):
    """Tokens within FAR of the likeliest, ascending, and what they weigh, which has 1."""

    least: np.float32  # of their logits
    places: Ids
    weights: Logits
    mass: float
    rest: float  # the most that all others weigh


def near_tokens(groups: Groups, temperature: float) -> Near | None:
    """None if they are so many that looking at the whole row takes as long."""
    least = below(groups.highest, FAR * temperature)
    places = groups.at_least(least)
    if len(places) > len(groups.row) // 8:
        return None
    scaled = temper(groups.row[places], groups.highest, temperature)
    weights = np.exp(scaled, out=scaled)
    return Near(least, places, weights, total(weights), groups.weight_below(least, temperature))


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


def is_clearly_typical(groups: Groups, near: Near, place: int, params: SamplingParams) -> bool | None:
    """Whether typical-p keeps a place; None if the others may matter, or what is as typical.

    The others leave an interval for the mean of the logarithms. What is nearer to both of its ends than another
    is nearer to all between.
    """
    index = int(np.searchsorted(near.places, place))
    if index == len(near.places) or near.places[index] != place:
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
