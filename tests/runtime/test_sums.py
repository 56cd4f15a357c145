"""Sums by blocks are sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mistralrs_onnx.runtime.sums import BLOCK, FEW, block_sums, dot, total

SIZES = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, FEW, FEW + 1, 20 * BLOCK, 20 * BLOCK + 7, 150_001]


@pytest.mark.parametrize("size", SIZES)
def test_whole_numbers_are_added_up_exactly(size: int) -> None:
    rng = np.random.default_rng(size)
    values, others = rng.integers(0, 9, (2, size)).astype(np.float32)
    assert total(values) == values.astype(np.float64).sum()
    assert dot(values, others) == (values * others).astype(np.float64).sum()
    expected = [values[i : i + BLOCK].sum() for i in range(0, size, BLOCK)]
    assert block_sums(values).tolist() == expected


def test_rounding_stays_that_of_a_block() -> None:
    """256 numbers in float32 err by at most 256 half ulps of their sum."""
    values = np.random.default_rng(0).exponential(1, 150_001).astype(np.float32)
    assert total(values) == pytest.approx(math.fsum(values.tolist()), rel=BLOCK * 2**-24)


def test_places_in_memory_do_not_matter() -> None:
    values = np.random.default_rng(0).exponential(1, 30_000).astype(np.float32)
    space = np.zeros(30_016, np.float32)
    for offset in range(16):
        moved = space[offset : offset + len(values)]
        moved[:] = values
        assert (block_sums(moved) == block_sums(values)).all()
        assert dot(moved, values) == dot(values, moved) == dot(values, values)


def test_infinity_of_nothing_is_no_number() -> None:
    values, weights = np.ones((2, 1000), np.float32)
    values[700], weights[700] = -np.inf, 0
    with np.errstate(invalid="ignore"):
        assert math.isnan(dot(values, weights))
    assert total(values) == -math.inf
