"""Sums over rows of float32 numbers in one pass, with the same bits whatever the threads; knows arrays alone.

Numbers are added up in blocks, each a dot product: these are too short for the threads of a BLAS, and take half the
time of numpy's sums in pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 256  # numbers added up in float32; blocks are added up in float64
FEW = 4096  # numbers that numpy adds up as quickly
_ONES = np.ones(BLOCK, np.float32)


def block_sums(values: Floats) -> Floats:
    """Of each block of (N,); the last may be shorter."""
    return _blocks(values, None)


def total(values: Floats) -> float:
    if len(values) <= FEW:
        return float(values.sum())
    return float(_blocks(values, None).sum(dtype=np.float64))


def dot(values: Floats, others: Floats) -> float:
    """The sum of products."""
    return float(_blocks(values, others).sum(dtype=np.float64))


def _blocks(values: Floats, others: Floats | None) -> Floats:
    whole = len(values) - len(values) % BLOCK
    sums = np.empty(-(-len(values) // BLOCK), np.float32)
    factors = _ONES if others is None else others[:whole].reshape(-1, BLOCK)
    np.vecdot(values[:whole].reshape(-1, BLOCK), factors, out=sums[: whole // BLOCK])
    if whole < len(values):
        rest = values[whole:]
        sums[-1] = np.vecdot(rest, _ONES[: len(rest)] if others is None else others[whole:])
    return sums
