"""Buckets as Prometheus has them: each up to its bound, the bound included."""

from __future__ import annotations

import pytest

from mistralrs_onnx.runtime.histogram import FIRST_TOKEN, NEXT_TOKEN, REQUEST, STEP_TOKENS, TOKENS, Bounds, Histogram


def test_a_value_is_in_the_first_bucket_that_reaches_it() -> None:
    found = Histogram((1, 2, 5))
    for value in (0, 1, 1.5, 2, 5, 5.1, 100):
        found.observe(value)
    assert found.counts == [2, 2, 1, 2]
    assert (found.num_observed, found.total) == (7, pytest.approx(114.6))


def test_a_sum_is_another() -> None:
    one, other = Histogram((1,)), Histogram((1,))
    one.observe(1)
    both = one + other
    one.observe(3)
    assert (both.counts, both.total) == ([1, 0], 1)
    assert ((one + both).counts, (one + both).total) == ([2, 1], 5)


@pytest.mark.parametrize("bounds", [FIRST_TOKEN, NEXT_TOKEN, REQUEST, TOKENS, STEP_TOKENS])
def test_bounds_are_in_order(bounds: Bounds) -> None:
    assert list(bounds) == sorted(set(bounds))
