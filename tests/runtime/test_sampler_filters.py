"""Filters keep exactly the sets that their definitions say, by full sorts in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistralrs_onnx.runtime.filters import distribution, inverse_cdf, typical
from mistralrs_onnx.runtime.leading import Groups, Workspace, largest, leading
from mistralrs_onnx.runtime.near import clear_nucleus, near_tokens
from mistralrs_onnx.runtime.sampling import SamplingParams

Array = np.ndarray[Any, Any]

ROUNDING = 1e-5  # of a sum of float32 weights, relative: 3000 of them, added in pairs

ROWS = {
    "seed": st.integers(0, 10**6),
    "vocab": st.one_of(st.integers(1, 200), st.integers(1, 9000)),
    "scale": st.sampled_from([0.0, 0.01, 1.0, 3.0, 8.0]),
}


def random_logits(seed: int, vocab: int, scale: float) -> Array:
    """Rounded, so that there are ties."""
    return (scale * np.random.default_rng(seed).standard_normal(vocab)).round(1).astype(np.float32)


def kept(logits: Array, **params: Any) -> list[int]:
    found = distribution(Groups(logits), SamplingParams(**params))
    return list(range(len(logits))) if found.token_ids is None else found.token_ids.tolist()


def check_fewest(order: Array, weights: Array, kept_ids: Array, share: float) -> None:
    """A beginning of `order` that has `share` of the weights, and would not without its last one, rounding aside."""
    begun = order[: len(kept_ids)]
    assert sorted(begun.tolist()) == kept_ids.tolist()
    mass, total = weights[begun].sum(), weights.sum()
    assert mass >= share * total * (1 - ROUNDING)
    assert len(begun) == 1 or mass - weights[begun[-1]] <= share * total * (1 + ROUNDING)


@settings(max_examples=150, deadline=None)
@given(k=st.integers(1, 400), **ROWS)
def test_top_k_keeps_the_k_largest_and_of_equals_the_lower_ids(k: int, seed: int, vocab: int, scale: float) -> None:
    logits = random_logits(seed, vocab, scale)
    assert kept(logits, top_k=k) == sorted(np.argsort(-logits, kind="stable")[:k].tolist())


@settings(max_examples=150, deadline=None)
@given(top_p=st.floats(0.01, 0.9999), temperature=st.sampled_from([0.3, 1.0, 4.0]), **ROWS)
def test_top_p_keeps_the_fewest_that_suffice(
    top_p: float, temperature: float, seed: int, vocab: int, scale: float
) -> None:
    logits = random_logits(seed, vocab, scale)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    found = distribution(Groups(logits), SamplingParams(top_p=top_p, temperature=temperature)).token_ids
    assert found is not None
    check_fewest(np.argsort(-logits, kind="stable"), weights, found, top_p)


@settings(max_examples=100, deadline=None)
@given(min_p=st.floats(0.001, 1.0), temperature=st.sampled_from([0.3, 1.0, 4.0]), **ROWS)
def test_min_p_keeps_what_has_its_part_of_the_likeliest(
    min_p: float, temperature: float, seed: int, vocab: int, scale: float
) -> None:
    logits = random_logits(seed, vocab, scale)
    relative = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    found = set(kept(logits, min_p=min_p, temperature=temperature))
    assert set(np.flatnonzero(relative >= min_p * (1 + ROUNDING)).tolist()) <= found
    assert found <= set(np.flatnonzero(relative >= min_p * (1 - ROUNDING)).tolist())


@settings(max_examples=150, deadline=None)
@given(typical_p=st.floats(0.01, 0.9999), **ROWS)
def test_typical_p_keeps_the_fewest_nearest_to_the_entropy(
    typical_p: float, seed: int, vocab: int, scale: float
) -> None:
    """By the definition, in float64; tokens as near as rounding lets tell may change places."""
    logits = random_logits(seed, vocab, scale)
    p = np.exp(logits.astype(np.float64) - logits.max())
    p /= p.sum()
    distance = np.abs(-np.log(p) - -(p * np.log(p)).sum())
    found = kept(logits, typical_p=typical_p)
    others = np.delete(np.arange(vocab), found)
    slack = 1e-5 * (1 + np.abs(logits).max())  # of float32 logits and of their mean
    assert distance[found].max() <= (distance[others].min() if len(others) else np.inf) + slack
    last = found[int(np.argmax(distance[found]))]
    assert p[found].sum() >= typical_p * (1 - ROUNDING)
    surely = [i for i in found if distance[i] < distance[last] - slack]
    assert p[surely].sum() <= typical_p * (1 + ROUNDING)


def test_typical_p_may_leave_the_likeliest_out() -> None:
    """0.3 and 35 times 0.02: the entropy is 3.1 nats, to which 0.02 (3.9) is nearer than 0.3 (1.2)."""
    weights = np.array([0.3] + [0.02] * 35, np.float32)
    assert typical(weights, 0.05).tolist() == [1, 2, 3]
    assert len(typical(weights, 0.9)) == 36


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 1.01), equal=st.booleans(), **ROWS)
def test_leading_is_the_beginning_of_a_sort(share: float, equal: bool, seed: int, vocab: int, scale: float) -> None:
    """Weights are whole numbers, whose sums are exact."""
    keys = random_logits(seed, vocab, scale)
    weights = np.random.default_rng(seed).integers(0, 9, vocab).astype(np.float32)
    order = np.argsort(-keys, kind="stable")
    each = np.ones(vocab) if equal else weights[order]
    target = math.floor(share * each.sum())
    wanted = order[: int(np.searchsorted(np.cumsum(each), target)) + 1]
    assert leading(keys, None if equal else weights, target).tolist() == sorted(wanted.tolist())


@pytest.mark.parametrize("shape", ["descending", "ascending", "two values", "one far above"])
def test_leading_of_rows_that_samples_misjudge(shape: str) -> None:
    ramp = np.linspace(0, 1, 20_000, dtype=np.float32)
    keys = {
        "descending": ramp[::-1].copy(),
        "ascending": ramp,
        "two values": (ramp > 0.3).astype(np.float32),
        "one far above": np.where(np.arange(20_000) == 777, np.float32(1e6), ramp),
    }[shape]
    order = np.argsort(-keys, kind="stable")
    mass = np.cumsum(keys[order], dtype=np.float64)
    for share in (1e-6, 0.1, 0.5, 0.97, 1.0):
        check_fewest(order, keys.astype(np.float64), leading(keys, keys, share * mass[-1]), share)
        count = max(1, int(share * len(keys)))
        assert leading(keys, None, count).tolist() == sorted(order[:count].tolist())


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 300), **ROWS)
def test_groups_tell_bounds(count: int, seed: int, vocab: int, scale: float) -> None:
    row = random_logits(seed, vocab, scale)
    groups = Groups(row)
    assert groups.highest == row.max()
    assert (row >= groups.bound(count)).sum() >= min(count, vocab)
    least = np.sort(row)[-min(count, vocab)]
    assert groups.at_least(least).tolist() == np.flatnonzero(row >= least).tolist()
    below = np.exp((row[row < least].astype(np.float64) - row.max()) / 0.7).sum()
    assert groups.weight_below(least, 0.7) >= below * (1 - ROUNDING)
    assert largest(groups, count).tolist() == sorted(np.argsort(-row, kind="stable")[:count].tolist())


def test_a_clear_nucleus_is_the_nucleus_and_a_flat_row_has_none() -> None:
    """Peaked as models are: most rows are clear, or the short way would be of no use."""
    rng, num_clear = np.random.default_rng(0), 0
    for _ in range(50):
        row = rng.normal(0, 2.0, 20_000).astype(np.float32)
        row[rng.choice(20_000, 50)] += rng.exponential(4, 50).astype(np.float32) + 6
        near = near_tokens(Groups(row), 0.8)
        assert near is not None
        found = clear_nucleus(near, 0.9)
        if found is not None:
            num_clear += 1
            weights = np.exp((row.astype(np.float64) - row.max()) / 0.8)
            check_fewest(np.argsort(-row, kind="stable"), weights, near.places[found], 0.9)
    assert num_clear > 25
    assert near_tokens(Groups(np.zeros(20_000, np.float32)), 1.0) is None


def test_filters_work_on_what_the_one_before_left() -> None:
    """Probabilities 4, 3, 2, 1 of 10: top-k 3 leaves 9, of which 0.7 are the first two; alone they would be three."""
    logits = np.log(np.array([4, 3, 2, 1], np.float32))
    assert kept(logits, top_p=0.71) == [0, 1, 2]
    assert kept(logits, top_p=0.71, top_k=3) == [0, 1]
    assert kept(logits, top_p=0.71, top_k=3, min_p=0.8) == [0]
    assert kept(logits, top_k=3, typical_p=0.3) == [1]  # 1/3, the nearest to an entropy of 1.06


def test_a_workspace_changes_nothing() -> None:
    space = Workspace(5000)
    for seed, params in enumerate([{"top_k": 50}, {"top_p": 0.9}, {"typical_p": 0.5}, {"min_p": 0.01}, {}]):
        logits = random_logits(seed, 5000, 2.0)
        asked = SamplingParams(**params)
        alone, shared = distribution(Groups(logits), asked), distribution(Groups(logits), asked, space=space)
        assert (alone.weights == shared.weights).all()
        assert np.array_equal(alone.token_ids, shared.token_ids) or alone.token_ids is shared.token_ids is None


def test_facts_of_top_k_and_min_p() -> None:
    """Numbers that the original's tests have."""
    top = distribution(Groups(np.array([0.0, 1.0, 2.0], np.float32)), SamplingParams(top_k=1))
    assert top.token_ids is not None
    assert top.token_ids.tolist() == [2]
    for top_p in (1.0, 0.9999):
        logits = np.log(np.array([1, 2, 4], np.float32))
        found = distribution(Groups(logits), SamplingParams(min_p=0.4, top_p=top_p))
        assert found.token_ids is not None
        assert found.token_ids.tolist() == [1, 2]
        np.testing.assert_allclose(found.weights / found.weights.sum(), [1 / 3, 2 / 3], rtol=1e-6)


def test_draws_land_on_tokens_with_weight_at_both_ends() -> None:
    weights = np.array([0.1, 0.7, 0.0], np.float32)
    assert inverse_cdf(weights, 1 - 2.0**-53) == 1
    assert inverse_cdf(np.array([0.0, 1.0], np.float32), 0.0) == 1
    for u in (0.0, 0.5, 1 - 2.0**-53):
        many = np.zeros(1000, np.float32)
        many[[300, 700]] = 1
        assert inverse_cdf(many, u) == (300 if u < 0.5 else 700)


@settings(max_examples=100, deadline=None)
@given(u=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 10**6), size=st.integers(1, 2000))
def test_draws_invert_the_sum_of_weights(u: float, seed: int, size: int) -> None:
    """Whole numbers, whose sums are exact in blocks and as a whole."""
    weights = np.random.default_rng(seed).integers(0, 4, size).astype(np.float32)
    weights[seed % size] = 1
    mass = np.cumsum(weights, dtype=np.float64)
    place = inverse_cdf(weights, u)
    assert weights[place] > 0
    assert mass[place] - weights[place] <= u * mass[-1] < mass[place] * (1 + 1e-15)
