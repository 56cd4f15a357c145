"""Whether counts are what a distribution leads to expect."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

RARE = 1e-6  # how often what is right may fail one of these tests, were seeds not fixed


def chi_square(drawn: Array, expected: Array) -> tuple[float, int]:
    """Statistic and degrees of freedom, of the tokens expected at least 5 times and of all others together."""
    counted = np.bincount(drawn, minlength=len(expected)).astype(np.float64)
    assert not counted[expected == 0].any()
    often = expected >= 5
    cells = np.append(expected[often], expected[~often].sum())
    found = np.append(counted[often], counted[~often].sum())
    used = cells > 0
    return float(((found - cells)[used] ** 2 / cells[used]).sum()), int(used.sum()) - 1


def critical(freedom: int) -> float:
    """Exceeded less often than RARE (Laurent and Massart, 2000, lemma 1)."""
    x = math.log(1 / RARE)
    return freedom + 2 * math.sqrt(freedom * x) + 2 * x
