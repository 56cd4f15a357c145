"""Draws from rows of which a filter keeps much: from all tokens, until one comes that the filter keeps.

What is drawn follows the filtered probabilities exactly (von Neumann, 1951), and nobody has to find out what else is
kept: for the token at hand it takes the mass of those that go before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .core import Logits
from .filters import FAR, TINY, inverse_cdf, temper
from .leading import Groups, Workspace, mass_of
from .sampling import SamplingParams

SMALLEST = 4096  # tokens of a row: shorter ones are filtered as quickly
LEAST_SHARE = 0.5  # of the probability: less would be drawn too often in vain
MOST_TRIES = 64
LOWEST = np.float32(math.log(TINY))

Uniforms = Callable[[int], float]  # in [0, 1), another one for each try


def draw_kept(groups: Groups, params: SamplingParams, uniforms: Uniforms, space: Workspace) -> int | None:
    """A place of the row. None where filters are better worked out: for several of them, and for peaked rows."""
    if len(groups.row) < SMALLEST or params.top_k > 0 or params.min_p > 0:
        return None
    if params.top_p == 1 and LEAST_SHARE <= params.typical_p < 1:
        return _typical(groups, params, uniforms, space)
    if params.typical_p == 1 and LEAST_SHARE <= params.top_p < 1 and _is_flat(groups, params.temperature):
        return _nucleus(groups, params, uniforms, space)
    return None


def _is_flat(groups: Groups, temperature: float) -> bool:
    """Whether more than an eighth is within FAR of the highest, which `clear_nucleus` leaves alone."""
    least = np.float32(float(groups.highest) - FAR * temperature)
    if np.count_nonzero(groups.maxima >= least) <= len(groups.maxima) // 8:
        return False
    return int(np.count_nonzero(groups.row >= least)) > len(groups.row) // 8


def _nucleus(groups: Groups, params: SamplingParams, uniforms: Uniforms, space: Workspace) -> int | None:
    _, weights = _weights(groups, params.temperature, space)
    return _draw(np.greater, weights, weights, params.top_p * float(weights.sum()), uniforms, space)


def _typical(groups: Groups, params: SamplingParams, uniforms: Uniforms, space: Workspace) -> int | None:
    """As `filters.typical`: what is nearest to the entropy goes first."""
    scaled, weights = _weights(groups, params.temperature, space)
    total, products = float(weights.sum()), space.products[: len(weights)]
    with np.errstate(invalid="ignore"):  # nothing of infinity is no number
        mean = float(np.multiply(scaled, weights, out=products).sum()) / total
    if math.isnan(mean):
        np.maximum(scaled, LOWEST, out=scaled)
        mean = float(np.multiply(scaled, weights, out=products).sum()) / total
    distances = np.abs(np.subtract(scaled, np.float32(mean), out=scaled), out=scaled)
    return _draw(np.less, distances, weights, params.typical_p * total, uniforms, space)


def _weights(groups: Groups, temperature: float, space: Workspace) -> tuple[Logits, Logits]:
    length = len(groups.row)
    scaled = temper(groups.row, groups.highest, temperature, space.scaled[:length])
    return scaled, np.exp(scaled, out=space.weights[:length])


def _draw(
    goes_first: np.ufunc, keys: Logits, weights: Logits, target: float, uniforms: Uniforms, space: Workspace
) -> int | None:
    """A place before which less than `target` weighs; of equal keys the lower place goes first."""
    for attempt in range(MOST_TRIES):
        place = inverse_cdf(weights, uniforms(attempt))
        before = goes_first(keys, keys[place], out=space.above[: len(keys)])
        equals = np.flatnonzero(keys[:place] == keys[place])
        if mass_of(before, weights, space) + float(weights[equals].sum()) < target:
            return place
    return None
