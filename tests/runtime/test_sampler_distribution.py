"""100,000 draws of each setting against the formula, written here once more: in float64, by loops and full sorts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chi_square import chi_square, critical

from mistralrs_onnx.runtime.filters import MOST_TRIES, Distribution, draw_unfiltered
from mistralrs_onnx.runtime.leading import Groups, Workspace
from mistralrs_onnx.runtime.near import draw_near, near_tokens
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import Sampler, uniform
from mistralrs_onnx.runtime.sampling import SamplingParams

MakeRequest = Callable[..., Request]
Array = np.ndarray[Any, Any]

VOCAB, NUM_DRAWS, EOS = 40, 100_000, 39
PROMPT, OUTPUT = [1, 2, 3, 4, 30, 1, 2], [5, 5, 6, 1, 2]
LIKELIEST = 9  # of the logits below


def plain_chain(logits: Array, params: SamplingParams, mask: Array | None = None) -> Array:
    """Probabilities (vocab,): masks, DRY, penalties, bias, temperature, top-k, top-p, min-p, typical-p."""
    z, tokens = logits.astype(np.float64), PROMPT + OUTPUT
    for t in range(len(z)):
        bad = any(w[-1] == t and list(w[:-1]) == OUTPUT[len(OUTPUT) - len(w) + 1 :] for w in params.bad_words)
        early = len(OUTPUT) < params.min_tokens and t in params.stop_token_ids | {EOS}
        outside = params.allowed_token_ids is not None and t not in params.allowed_token_ids
        if bad or early or outside or (mask is not None and not mask[t]):
            z[t] = -np.inf
    if params.dry_multiplier:
        for t in range(len(z)):
            lengths = [shared_end(tokens[:i], tokens) for i in range(1, len(tokens)) if tokens[i] == t]
            if max(lengths, default=0) >= params.dry_allowed_length:
                z[t] -= params.dry_multiplier * params.dry_base ** (max(lengths) - params.dry_allowed_length)
    for t in set(tokens[-params.repeat_last_n :]):
        z[t] = z[t] / params.repetition_penalty if z[t] > 0 else z[t] * params.repetition_penalty
    for t in set(OUTPUT):
        z[t] -= OUTPUT.count(t) * params.frequency_penalty + params.presence_penalty
    for t, bias in params.logit_bias.items():
        z[t] += bias
    p = np.exp((z - z.max()) / params.temperature)
    if params.top_k > 0:
        p[np.argsort(-p, kind="stable")[params.top_k :]] = 0
    p = fewest(p / p.sum(), -p, params.top_p)
    p[p < params.min_p * p.max()] = 0
    p /= p.sum()
    surprise = -np.log(np.where(p > 0, p, 1))
    return fewest(p, np.where(p > 0, np.abs(surprise - (p * surprise).sum()), np.inf), params.typical_p)


def shared_end(one: list[int], other: list[int]) -> int:
    return next((n for n in range(min(len(one), len(other))) if one[-1 - n] != other[-1 - n]), len(one))


def fewest(p: Array, order_by: Array, share: float) -> Array:
    order = np.argsort(order_by, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    kept = p.copy()
    kept[order[before >= share]] = 0
    return kept / kept.sum()


@pytest.fixture(scope="module", name="uniforms")
def _uniforms() -> Array:
    """Those of the first tokens of requests with these seeds."""
    return np.array([uniform(seed, 0) for seed in range(NUM_DRAWS)])


def draw_all(found: Distribution, uniforms: Array) -> Array:
    """As `Distribution.draw` does, which the first ones check: one block of weights has them all."""
    mass = np.cumsum(found.weights, dtype=np.float64)
    places = np.searchsorted(mass, uniforms * mass[-1], side="right")
    drawn = places if found.token_ids is None else found.token_ids[places]
    assert drawn[:500].tolist() == [found.draw(u) for u in uniforms[:500].tolist()]
    return drawn


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 4.0},
    {"top_k": 1},
    {"top_k": 6},
    {"top_p": 0.5},
    {"top_p": 0.9},
    {"min_p": 0.1},
    {"typical_p": 0.3},
    {"typical_p": 0.9},
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 0.7, "repeat_last_n": 3},
    {"frequency_penalty": 0.7},
    {"presence_penalty": 1.1},
    {"presence_penalty": -1.5, "frequency_penalty": -0.3},
    {"logit_bias": {0: 2.0, 7: -3.0, 38: 5.0}},
    {"logit_bias": {0: -100.0}},
    {"dry_multiplier": 0.8, "dry_sequence_breakers": ()},
    {"dry_multiplier": 1.5, "dry_base": 1.2, "dry_allowed_length": 1, "dry_sequence_breakers": ()},
    {"allowed_token_ids": frozenset({0, 3, 5, 11, 12, 37})},
    {"bad_words": ((0,), (1, 2, 3), (2, 5), (2, 2, 6))},
    {"min_tokens": 6, "stop_token_ids": frozenset({8, 9})},
    {"min_tokens": 5, "stop_token_ids": frozenset({8, 9})},
    {"mask": True},
    {"temperature": 1.7, "top_k": 12, "top_p": 0.8},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 2.0, "top_p": 0.9, "typical_p": 0.6},
    {"temperature": 1.2, "repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2, "top_p": 0.9},
    {"repetition_penalty": 1.8, "logit_bias": {1: 3.0, 5: 2.0, 6: -1.0}, "min_p": 0.02},
    {
        "temperature": 1.4,
        "top_k": 15,
        "top_p": 0.97,
        "min_p": 0.01,
        "typical_p": 0.95,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
        "dry_multiplier": 0.9,
        "dry_sequence_breakers": (),
        "logit_bias": {2: 1.5, 30: 1.0},
        "bad_words": ((4,), (1, 2, 7)),
        "min_tokens": 50,
        "mask": True,
    },
]


def found_and_expected(setting: dict[str, Any], make_request: MakeRequest) -> tuple[Distribution, Array]:
    params = dict(setting)
    mask = np.arange(VOCAB) % 3 != 1 if params.pop("mask", False) else None
    request = make_request(PROMPT, **params)
    for token_id in OUTPUT:
        request.append(token_id)
    if mask is not None:
        request.mask = np.packbits(np.append(mask, [False] * 24), bitorder="little").view(np.int32)
    logits = (2 * np.random.default_rng(5).standard_normal(VOCAB)).astype(np.float32)
    found = Sampler(frozenset({EOS})).distribution(logits, request)
    assert not isinstance(found, int)
    return found, plain_chain(logits, request.params, mask)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: ", ".join(f"{k}={v}" for k, v in setting.items()))
def test_draws_follow_the_formula(setting: dict[str, Any], uniforms: Array, make_request: MakeRequest) -> None:
    found, probabilities = found_and_expected(setting, make_request)
    statistic, freedom = chi_square(draw_all(found, uniforms), NUM_DRAWS * probabilities)
    assert statistic <= critical(freedom)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: ", ".join(f"{k}={v}" for k, v in setting.items()))
def test_probabilities_are_those_of_the_formula(setting: dict[str, Any], make_request: MakeRequest) -> None:
    """What 100,000 draws cannot tell apart; float32 exponentials of up to 40 / 0.6 nats err by 1e-5."""
    found, probabilities = found_and_expected(setting, make_request)
    dense = np.zeros(VOCAB)
    dense[slice(None) if found.token_ids is None else found.token_ids] = found.weights
    np.testing.assert_allclose(dense / dense.sum(), probabilities, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("wrong", [{"temperature": 1.05}, {"top_p": 0.99}, {"logit_bias": {LIKELIEST: 0.1}}], ids=str)
def test_a_small_mistake_would_be_noticed(wrong: dict[str, Any], uniforms: Array, make_request: MakeRequest) -> None:
    found, _ = found_and_expected(wrong, make_request)
    _, plain = found_and_expected({}, make_request)
    statistic, freedom = chi_square(draw_all(found, uniforms), NUM_DRAWS * plain)
    assert statistic > critical(freedom)


def draw_each(row: Array, uniforms: Array) -> Array:
    """One draw after another, of as many numbers as it takes."""
    groups, numbers, drawn = Groups(row), iter(uniforms.tolist()), []
    near, space = near_tokens(groups, 1.0), Workspace(len(row))
    while len(drawn) < 0.8 * len(uniforms):
        drawn.append(draw_unfiltered(groups, 1.0, near, numbers, space))
    return np.array(drawn)


@pytest.mark.parametrize("lead", [3, 9, 12])
def test_draws_without_filters_follow_the_softmax(lead: float, uniforms: Array) -> None:
    """Of a row with one likely token, ahead by `lead`: more than an eighth are near it, or some, or hardly any."""
    row = np.random.default_rng(3).normal(0, 2.0, 5000).astype(np.float32)
    row[4000] = row.max() + np.float32(lead)
    weights = np.exp(row.astype(np.float64))
    drawn = draw_each(row, uniforms)
    statistic, freedom = chi_square(drawn, len(drawn) * weights / weights.sum())
    assert statistic <= critical(freedom)


def test_what_is_far_from_the_likeliest_is_drawn_as_often_as_it_should() -> None:
    """Numbers from where these begin on: of tokens in whole groups and behind them."""
    row = np.random.default_rng(3).normal(0, 1.0, 1030).astype(np.float32)
    row[:7] += np.float32(12)
    groups = Groups(row)
    near = near_tokens(groups, 0.8)
    assert near is not None
    numbers = np.random.default_rng(4).uniform(near.mass / (near.mass + near.rest), 1, 200_000)
    found = [draw_near(groups, near, 0.8, u) for u in numbers.tolist()]
    drawn = np.array([place for place in found if place is not None])
    weights = np.exp(row.astype(np.float64) / 0.8)
    weights[near.places] = 0
    assert len(drawn) > 10_000
    statistic, freedom = chi_square(drawn, len(drawn) * weights / weights.sum())
    assert statistic <= critical(freedom)
    share = np.exp((row.astype(np.float64) - row.max()) / 0.8)[weights > 0].sum() / near.rest
    assert len(drawn) / len(found) == pytest.approx(share, rel=0.02)  # 1.5 % of 20,000 draws: twice their spread


def test_the_ends_of_unfiltered_draws_are_tokens() -> None:
    row = np.full(1000, -np.inf, np.float32)
    row[[500, 700]] = 3.0
    near = near_tokens(Groups(row), 1.0)
    ends = (0.0, 0.4, 0.6, 0.9999)
    assert [draw_unfiltered(Groups(row), 1.0, near, iter([u])) for u in ends] == [500, 500, 700, 700]
    assert draw_unfiltered(Groups(row), 1.0, near, iter([1 - 2.0**-53, 0.0])) == 500, "others have no probability"
    assert draw_unfiltered(Groups(np.zeros(1000, np.float32)), 1.0, None, iter([1 - 2.0**-53])) == 999


def test_draws_that_come_to_nothing_end() -> None:
    """Always the same number, for which there is none: then one of the whole row."""
    row = np.full(5000, -np.inf, np.float32)
    row[4000] = 20.0
    groups = Groups(row)
    near = near_tokens(groups, 1.0)
    assert near is not None
    u = (near.mass + near.rest / 2) / (near.mass + near.rest)
    assert draw_near(groups, near, 1.0, u) is None
    numbers = iter([u] * (MOST_TRIES + 1))
    assert draw_unfiltered(groups, 1.0, near, numbers) == 4000
    assert next(numbers, None) is None


def test_tokens_of_one_request_follow_the_formula_too(make_request: MakeRequest) -> None:
    """Positions of one seed, drawn by the sampler itself, row by row."""
    logits = (2 * np.random.default_rng(5).standard_normal(VOCAB)).astype(np.float32)
    request, sampler, drawn = make_request([1], seed=11, top_p=0.9), Sampler(), []
    for _ in range(5000):
        drawn.append(sampler.sample(logits[None], [request]).token_ids[0])
        request.append(drawn[-1])
    statistic, freedom = chi_square(np.array(drawn), 5000 * plain_chain(logits, request.params))
    assert statistic <= critical(freedom)
