"""Exponentials are those of float64, whatever makes them."""

from __future__ import annotations

import numpy as np
import pytest

from mistralrs_onnx.runtime import exponentials as module
from mistralrs_onnx.runtime.exponentials import MODERATE, exponentials, weigh
from mistralrs_onnx.runtime.sums import BLOCK


@pytest.fixture(params=[False, True])
def function(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HAS_POWERS_OF_TWO", request.param)


@pytest.mark.usefixtures("function")
@pytest.mark.parametrize("factor", [1.0, 0.2, 1.25])
def testexponentials_have_the_error_that_is_said(factor: float) -> None:
    row = np.linspace(-MODERATE / factor, MODERATE / factor, 10_001, dtype=np.float32)
    out = np.empty_like(row)
    assert exponentials(row, factor, out) is out
    np.testing.assert_allclose(out, np.exp(factor * row.astype(np.float64)), rtol=6e-6)
    near = np.abs(factor * row) < 5
    np.testing.assert_allclose(out[near], np.exp(factor * row[near].astype(np.float64)), rtol=1e-6)


@pytest.mark.usefixtures("function", "passes")
@pytest.mark.parametrize("highest", [-500.0, -3.0, 3.0, 500.0])
def test_weights_are_relative_to_each_other(highest: float) -> None:
    row = (highest - np.random.default_rng(0).exponential(3, 5000)).astype(np.float32)
    row[7] = -np.inf
    weights = np.empty_like(row)
    sums = weigh(row, row.max(), 0.7, weights)
    expected = np.exp((row.astype(np.float64) - row.max()) / 0.7)
    np.testing.assert_allclose(weights / weights.max(), expected, rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(sums, [block.sum() for block in np.split(weights, range(BLOCK, 5000, BLOCK))], rtol=1e-6)
