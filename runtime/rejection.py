"""Draws from rows of which a filter keeps much: from all tokens, until one comes that the filter keeps.

What is drawn follows the filtered probabilities exactly (von Neumann, 1951), and nobody has to find out what else is
kept: for the token at hand it takes the mass of those that go before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .core import Logits
from .filters import FAR, MODERATE, TINY, block_mass, place_at, temper
from .leading import Groups, Workspace, mass_of
from .sampling import SamplingParams

SMALLEST = 4096  # tokens of a row: shorter ones are filtered as quickly
LEAST_SHARE = 0.5  # of the probability: less would be drawn too often in vain
MOST_TRIES = 64
SAMPLED = 61  # of so many logits one is looked at to see whether a row is flat
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
    """Whether more than an eighth is within FAR of the highest, which `clear_nucleus` leaves alone, as samples say."""
    samples = groups.row[::SAMPLED]
    least = np.float32(float(groups.highest) - FAR * temperature)
    return int(np.count_nonzero(samples >= least)) > len(samples) // 8


def _nucleus(groups: Groups, params: SamplingParams, uniforms: Uniforms, space: Workspace) -> int | None:
    _, weights = _weights(groups, params.temperature, space)
    return _draw(np.greater, weights, weights, block_mass(weights), params.top_p, uniforms, space)


def _typical(groups: Groups, params: SamplingParams, uniforms: Uniforms, space: Workspace) -> int | None:
    """As `filters.typical`: what is nearest to the entropy goes first."""
    scaled, weights = _weights(groups, params.temperature, space)
    mass, products, out = block_mass(weights), space.products[: len(weights)], space.scaled[: len(weights)]
    total = float(mass[-1])
    with np.errstate(invalid="ignore"):  # nothing of infinity is no number
        mean = float(np.multiply(scaled, weights, out=products).sum()) / total
    if math.isnan(mean):
        scaled = np.maximum(scaled, scaled.max() + LOWEST, out=out)
        mean = float(np.multiply(scaled, weights, out=products).sum()) / total
    distances = np.abs(np.subtract(scaled, np.float32(mean), out=out), out=out)
    return _draw(np.less, distances, weights, mass, params.typical_p, uniforms, space)


def _weights(groups: Groups, temperature: float, space: Workspace) -> tuple[Logits, Logits]:
    """Logarithms of weights, not to be written to, and weights. Those of moderate logits need not be moved down."""
    row, scaled = groups.row, space.scaled[: len(groups.row)]
    if abs(float(groups.highest)) > MODERATE * temperature:
        scaled = temper(row, groups.highest, temperature, scaled)
    else:
        scaled = row if temperature == 1 else np.multiply(row, np.float32(1 / temperature), out=scaled)
    return scaled, np.exp(scaled, out=space.weights[: len(row)])


def _draw(
    goes_first: np.ufunc,
    keys: Logits,
    weights: Logits,
    mass: NDArray[np.float64],
    share: float,
    uniforms: Uniforms,
    space: Workspace,
) -> int | None:
    """A place before which less than `share` of all weighs; of equal keys the lower place goes first."""
    target = share * float(mass[-1])
    for attempt in range(MOST_TRIES):
        place = place_at(weights, mass, uniforms(attempt))
        before = goes_first(keys, keys[place], out=space.above[: len(keys)])
        equals = np.flatnonzero(keys[:place] == keys[place])
        if mass_of(before, weights, space) + float(weights[equals].sum()) < target:
            return place
    return None
