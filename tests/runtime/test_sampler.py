"""Every filter against a full sort of the vocabulary, and draws that depend on nothing but their request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import FAILED, Sampler, draw, inverse_cdf, nucleus, top_k, uniform
from mistralrs_onnx.runtime.sampling import SamplingParams

MakeRequest = Callable[..., Request]


def random_logits(num_rows: int, vocab: int = 300, seed: int = 0, scale: float = 3.0) -> np.ndarray[Any, Any]:
    return (scale * np.random.default_rng(seed).standard_normal((num_rows, vocab))).astype(np.float32)


def distribution(logits: np.ndarray[Any, Any], params: SamplingParams) -> np.ndarray[Any, Any]:
    """By a full sort in float64: temperature, top-k, top-p, min-p."""
    z = logits.astype(np.float64) / params.temperature
    p = np.exp(z - z.max())
    order = np.argsort(-p, kind="stable")
    if params.top_k > 0:
        p[order[params.top_k :]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= params.top_p]] = 0
    p[p < params.min_p * p.max()] = 0
    return p / p.sum()


FILTERS = [
    {},
    {"temperature": 0.7},
    {"temperature": 5.0},
    {"top_k": 5},
    {"top_k": 1},
    {"top_p": 0.9},
    {"top_p": 0.5, "temperature": 3.0},
    {"min_p": 0.1},
    {"top_k": 20, "top_p": 0.8},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 1.5},
    {"top_k": 1000},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_draws_follow_the_distribution(filters: dict[str, Any], make_request: MakeRequest) -> None:
    """Chi-square over the tokens expected at least 5 times, the others together; critical value at about 1e-5."""
    logits, num_draws = random_logits(1)[0], 4000
    requests = [make_request([1], seed=seed, **filters) for seed in range(num_draws)]
    drawn = Sampler().sample(np.tile(logits, (num_draws, 1)), requests)
    expected = distribution(logits, requests[0].params) * num_draws
    counted = np.bincount(drawn, minlength=len(logits))
    assert not counted[expected == 0].any()
    often = expected >= 5
    cells = [
        (counted[often], expected[often]),
        (counted[~often].sum(keepdims=True), expected[~often].sum(keepdims=True)),
    ]
    statistic = sum(float(((n - e) ** 2 / np.maximum(e, 1e-9)).sum()) for n, e in cells if e.sum() > 0)
    freedom = max(1, int(often.sum()))
    assert statistic < freedom + 4.3 * np.sqrt(2 * freedom) + 12


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.integers(1, 3000),
    scale=st.sampled_from([0.0, 0.01, 1.0, 8.0]),
    k=st.integers(1, 400),
    top_p=st.floats(0.01, 0.999),
)
def test_filters_equal_a_full_sort(seed: int, vocab: int, scale: float, k: int, top_p: float) -> None:
    logits = random_logits(1, vocab, seed, scale).round(1)[0]  # rounded: ties
    weights = np.exp(logits - logits.max())
    order = np.argsort(-weights, kind="stable")
    assert top_k(weights, k).tolist() == order[:k].tolist()
    mass = np.cumsum(weights[order], dtype=np.float64)
    total = weights.sum(dtype=np.float64)
    kept = nucleus(weights, top_p)
    assert kept.tolist() == order[: len(kept)].tolist()
    assert mass[len(kept) - 1] >= top_p * total * (1 - 1e-9)
    assert len(kept) == 1 or mass[len(kept) - 2] < top_p * total * (1 + 1e-9)


def test_greedy_takes_the_first_maximum(make_request: MakeRequest) -> None:
    logits = np.array([[-2, 4, 4, 1], [-np.inf, -3, 2, 0]], np.float32)
    greedy = make_request([1], temperature=0)
    assert Sampler().sample(logits, [greedy, greedy]).tolist() == [1, 2]


def test_greedy_and_sampled_rows_mix_and_the_logits_stay(make_request: MakeRequest) -> None:
    logits = random_logits(3)
    before = logits.copy()
    greedy, warm = make_request([1], temperature=0), make_request([1], seed=5)
    penalized = make_request([int(logits[2].argmax())], temperature=0, repetition_penalty=100.0)
    mixed = Sampler().sample(logits, [greedy, warm, penalized])
    assert mixed[0] == logits[0].argmax()
    assert mixed[1] == Sampler().sample(logits[1:2], [warm])[0]
    assert mixed[2] == np.argsort(-logits[2])[1]
    assert (logits == before).all()


def test_a_row_without_numbers_fails_alone(make_request: MakeRequest) -> None:
    logits = random_logits(4)
    logits[1, 7], logits[2] = np.nan, -np.inf
    requests = [make_request([1], seed=i, top_p=0.9) for i in range(4)]
    drawn = Sampler().sample(logits, requests)
    assert drawn[1] == drawn[2] == FAILED
    assert drawn[0] == Sampler().sample(logits[:1], requests[:1])[0] != FAILED
    assert drawn[3] == Sampler().sample(logits[3:], requests[3:])[0] != FAILED


def test_a_masked_token_is_never_drawn(make_request: MakeRequest) -> None:
    logits = np.full((200, 8), -np.inf, np.float32)
    logits[:, [2, 5]] = 0
    drawn = Sampler().sample(logits, [make_request([1], seed=i) for i in range(200)])
    assert set(drawn.tolist()) == {2, 5}


def test_same_seed_same_tokens_whatever_the_batch_mates(make_request: MakeRequest) -> None:
    logits = random_logits(16)
    requests = [make_request([1], seed=i, top_p=0.9) for i in range(16)]
    together = Sampler().sample(logits, requests)
    alone = [int(Sampler().sample(logits[i : i + 1], [requests[i]])[0]) for i in range(16)]
    assert together.tolist() == alone
    assert Sampler().sample(logits[::-1], requests[::-1]).tolist() == alone[::-1]


def test_uniform_is_a_function_of_seed_and_position() -> None:
    values = np.array([[uniform(seed, position) for position in range(40)] for seed in (-1, 0, 1, 2**64 - 2)])
    assert len(np.unique(values)) == values.size
    assert ((values >= 0) & (values < 1)).all()
    assert uniform(7, 3) == uniform(7, 3)


def test_repetition_looks_at_prompt_and_output_in_its_window(make_request: MakeRequest) -> None:
    logits = np.array([[3.0, 2.0, -1.0, 1.0]], np.float32)
    wide = make_request([0, 1, 2], temperature=0, repetition_penalty=4.0, repeat_last_n=0)
    assert Sampler().sample(logits, [wide])[0] == 3
    narrow = make_request([0, 1, 2], temperature=0, repetition_penalty=4.0, repeat_last_n=1)
    assert Sampler().sample(logits, [narrow])[0] == 0


def test_frequency_and_presence_look_at_the_output_alone(make_request: MakeRequest) -> None:
    logits = np.array([[3.0, 2.5, 0.0, 1.5]], np.float32)
    often = make_request([0, 0, 0, 0], temperature=0, frequency_penalty=0.4)
    chosen = []
    for _ in range(5):
        chosen.append(int(Sampler().sample(logits, [often])[0]))
        often.append(chosen[-1])
    assert chosen == [0, 0, 1, 0, 1]
    present = make_request([0], temperature=0, presence_penalty=1.0)
    present.append(0)
    assert Sampler().sample(logits, [present])[0] == 1


def test_min_p_is_relative_to_the_likeliest() -> None:
    weights = np.array([0.25, 0.5, 1.0], np.float32)
    drawn = {draw(weights, SamplingParams(min_p=0.4), u) for u in np.linspace(0, 0.999, 50)}
    assert drawn == {1, 2}


def test_the_largest_draw_lands_on_a_token_with_weight() -> None:
    weights = np.array([0.1, 0.7, 0.0], np.float32)
    assert inverse_cdf(weights, 1 - 2.0**-53) == 1
    assert inverse_cdf(np.array([0.0, 1.0], np.float32), 0.0) == 1
