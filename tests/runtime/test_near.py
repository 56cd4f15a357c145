"""What a few likely tokens tell about a row is what the whole of it tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mistralrs_onnx.runtime.leading import Groups
from mistralrs_onnx.runtime.near import FAR, is_clearly_in_nucleus, is_clearly_typical, near_tokens
from mistralrs_onnx.runtime.sampling import SamplingParams

pytestmark = pytest.mark.usefixtures("passes")
Array = np.ndarray[Any, Any]


def peaked(seed: int, vocab: int = 20_000) -> Array:
    """As models have them."""
    rng = np.random.default_rng(seed)
    row = rng.normal(0, 2.0, vocab).astype(np.float32)
    row[rng.choice(vocab, 50)] += rng.exponential(4, 50).astype(np.float32) + 6
    return row


def typical_set(row: Array, temperature: float, typical_p: float) -> Array:
    """Which places typical-p keeps (vocab,), by the definition in float64."""
    p = np.exp((row.astype(np.float64) - row.max()) / temperature)
    p /= p.sum()
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    order = np.argsort(np.where(p > 0, np.abs(logs - (p * logs).sum()), np.inf), kind="stable")
    kept = np.zeros(len(row), np.bool_)
    kept[order[: int(np.searchsorted(np.cumsum(p[order]), typical_p)) + 1]] = True
    return kept


@pytest.mark.parametrize("temperature", [0.4, 0.6, 0.8])
def test_near_tokens_are_those_within_reach_and_the_others_weigh_no_more(temperature: float) -> None:
    for seed in range(20):
        row = peaked(seed)
        weights = np.exp((row.astype(np.float64) - row.max()) / temperature)
        near = near_tokens(Groups(row), temperature)
        assert near is not None
        assert np.array_equal(near.places, np.flatnonzero(row >= near.least))
        assert near.least <= row.max() - FAR * temperature
        others = np.delete(weights, near.places).sum()
        assert others <= near.rest * (1 + 1e-5)  # float32 exponentials
        assert near.mass == pytest.approx(weights[near.places].sum(), rel=1e-5)


def test_flat_rows_have_no_few_likely_tokens() -> None:
    assert near_tokens(Groups(np.zeros(20_000, np.float32)), 1.0) is None


@pytest.mark.parametrize("typical_p", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_clearly_typical_is_so_by_the_definition(typical_p: float, masked: bool) -> None:
    num_clear, num_kept, num_all = 0, 0, 0
    params = SamplingParams(typical_p=typical_p, temperature=0.8)
    for seed in range(100):
        row = peaked(seed)
        if masked:
            row[seed::3] = -np.inf
        groups = Groups(row)
        near = near_tokens(groups, 0.8)
        assert near is not None
        kept = typical_set(row, 0.8, typical_p)
        for place in near.places.tolist():
            found = is_clearly_typical(groups, near, place, params)
            assert found is None or found == kept[place]
            num_clear, num_kept, num_all = num_clear + (found is not None), num_kept + bool(found), num_all + 1
    assert num_clear > 0.8 * num_all, "or the short way would be of no use"
    assert 0.02 * num_all < num_kept < 0.98 * num_all


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.99])
def test_what_is_clearly_in_the_nucleus_is_so_by_the_definition(top_p: float) -> None:
    num_clear, num_kept, num_all = 0, 0, 0
    for seed in range(50):
        row = peaked(seed).round(1)  # with equals
        weights = np.exp((row.astype(np.float64) - row.max()) / 0.8)
        near = near_tokens(Groups(row), 0.8)
        assert near is not None
        order = np.argsort(-row, kind="stable")
        mass = np.cumsum(weights[order])
        kept = set(order[: int(np.searchsorted(mass, top_p * mass[-1])) + 1].tolist())
        for place in near.places.tolist():
            found = is_clearly_in_nucleus(near, place, top_p)
            assert found is None or found == (place in kept)
            num_clear, num_kept, num_all = num_clear + (found is not None), num_kept + bool(found), num_all + 1
        assert is_clearly_in_nucleus(near, int(row.argmin()), top_p) is None
    assert num_clear > 0.7 * num_all, "or the short way would be of no use"
    assert 0.02 * num_all < num_kept < 0.98 * num_all


def test_far_tokens_and_equals_are_not_told() -> None:
    row = peaked(3)
    best = row.argmax()
    row[[10, 20]] = row[best]
    groups, params = Groups(row), SamplingParams(typical_p=0.5)
    near = near_tokens(groups, 1.0)
    assert near is not None
    far = int(row.argmin())
    assert is_clearly_typical(groups, near, far, params) is None
    found = [is_clearly_typical(groups, near, place, params) for place in sorted([10, 20, int(best)])]
    assert None in found, "which of them are kept is a matter of their places"
