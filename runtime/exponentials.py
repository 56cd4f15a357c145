"""Exponentials of a row of float32 numbers, by whichever of numpy's functions has vector instructions for it here."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib import introspect

from .rows import compiled_rows
from .sums import Floats, block_sums

MODERATE = 60.0  # nats: exponentials of numbers up to it, and sums of these, are float32


def weigh(row: Floats, highest: np.float32, temperature: float, out: Floats) -> Floats:
    """What tokens weigh, to `out`: exponentials of logits, all times the same number. Returns sums of blocks."""
    if (rows := compiled_rows()) is not None:
        return rows.weigh(row, float(highest), temperature, out)
    if abs(float(highest)) > MODERATE * temperature:
        row = np.subtract(row, highest, out=out)
    return block_sums(exponentials(row, 1 / temperature, out))


def exponentials(row: Floats, factor: float, out: Floats) -> Floats:
    """exp(factor · x) of each, to `out`; relative errors grow with |factor · x| to 6e-6 at 60."""
    if HAS_POWERS_OF_TWO:
        return np.exp2(np.multiply(row, np.float32(factor / math.log(2)), out=out), out=out)
    return np.exp(row if factor == 1 else np.multiply(row, np.float32(factor), out=out), out=out)


def _is_vectorised(name: str) -> bool:
    """Whether numpy chose instructions beyond those that all processors of the kind have."""
    found = introspect.opt_func_info(func_name=f"^{name}$", signature="float32")
    return any(not each["current"].startswith("baseline") for each in found.get(name, {}).values())


HAS_POWERS_OF_TWO = _is_vectorised("exp2")  # with AVX-512, where it takes half the time of exp
