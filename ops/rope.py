"""Rotary position embedding tables: cos and sin of position · frequency (Su et al., 2021, RoFormer)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnxscript import opset21 as op
from onnxscript import script

from .formats import Float32
from .functions import own


class Tables(NamedTuple):
    """float32 (rows, rotary dim / 2) each."""

    cos: Float32
    sin: Float32


def inverse_frequencies(base: float, rotary_dim: int) -> NDArray[np.float64]:
    """base^(-2i/dim) for i < dim / 2."""
    return base ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)


def rotary_tables(frequencies: NDArray[np.float64], rows: int) -> Tables:
    angles = np.arange(rows, dtype=np.float64)[:, None] * frequencies
    return Tables(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


@script(own, default_opset=op)
def RotaryTables(frequencies, rows: int):
    """Angles in float64: in float32 they lose a thousandth of a turn at 10,000 positions"""
    end = op.Cast(op.Constant(value_int=rows), to=11)
    positions = op.Range(op.Cast(op.Constant(value_int=0), to=11), end, op.Cast(op.Constant(value_int=1), to=11))
    angles = op.Mul(op.Unsqueeze(positions, op.Constant(value_ints=[1])), frequencies)
    return op.Cast(op.Cos(angles), to=1), op.Cast(op.Sin(angles), to=1)
