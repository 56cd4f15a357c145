"""The chain as a whole: what comes before what, rows that fail, and draws that depend on nothing but their request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import EXHAUSTED, FAILED, Sampler, failure, uniform

MakeRequest = Callable[..., Request]
EOS = 7


def random_logits(num_rows: int, vocab: int = 300, seed: int = 0, scale: float = 3.0) -> np.ndarray[Any, Any]:
    return (scale * np.random.default_rng(seed).standard_normal((num_rows, vocab))).astype(np.float32)


def bitmask(token_ids: list[int], vocab: int) -> np.ndarray[Any, Any]:
    bits = np.zeros((vocab + 31) // 32 * 32, np.uint8)
    bits[token_ids] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def test_greedy_takes_the_first_maximum(make_request: MakeRequest) -> None:
    logits = np.array([[-2, 4, 4, 1], [-np.inf, -3, 2, 0]], np.float32)
    greedy = make_request([1], temperature=0)
    assert Sampler().sample(logits, [greedy, greedy]).token_ids == [1, 2]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("params", [{"temperature": 0}, {"top_p": 0.9}, {"temperature": 0, "logit_bias": {1: 5.0}}])
def test_logits_that_are_no_numbers_fail(wrong: float, params: dict[str, Any], make_request: MakeRequest) -> None:
    logits = np.full((1, 300), wrong if wrong < 0 else 0, np.float32)
    logits[0, 7] = wrong
    assert Sampler().sample(logits, [make_request([1], seed=0, **params)]).token_ids[0] == FAILED


def test_no_logits_at_all_are_an_error(make_request: MakeRequest) -> None:
    with pytest.raises(ValueError, match="empty"):
        Sampler().sample(np.zeros((1, 0), np.float32), [make_request([1], temperature=0)])


def test_a_row_without_numbers_fails_alone(make_request: MakeRequest) -> None:
    logits = random_logits(4)
    logits[1, 7], logits[2] = np.nan, -np.inf
    requests = [make_request([1], seed=i, top_p=0.9) for i in range(4)]
    drawn = Sampler().sample(logits, requests).token_ids
    assert drawn[1] == drawn[2] == FAILED
    assert drawn[0] == Sampler().sample(logits[:1], requests[:1]).token_ids[0] != FAILED
    assert drawn[3] == Sampler().sample(logits[3:], requests[3:]).token_ids[0] != FAILED


def test_a_row_whose_masks_leave_nothing_fails_alone_and_says_why(make_request: MakeRequest) -> None:
    logits = random_logits(3)
    requests = [make_request([1], seed=i) for i in range(3)]
    requests[1] = make_request([1], allowed_token_ids=frozenset({3, 4}), bad_words=((3,), (4,)))
    drawn = Sampler().sample(logits, requests).token_ids
    assert drawn[1] == EXHAUSTED
    assert [drawn[0], drawn[2]] == Sampler().sample(logits[::2], requests[::2]).token_ids
    error = failure(EXHAUSTED)
    assert error is not None
    assert (error.status, error.code) == (400, "no_token_left")
    broken = failure(FAILED)
    assert broken is not None
    assert broken.status == 500
    assert failure(0) is None


def test_masks_allow_what_all_of_them_allow(make_request: MakeRequest) -> None:
    """From best to worst 0, 1, 2, ...: each mask takes the best that is left away."""
    logits = -np.arange(40, dtype=np.float32)[None]
    asked: dict[str, Any] = {"temperature": 0}
    request = make_request([1], **asked)
    assert Sampler(frozenset({3})).sample(logits, [request]).token_ids == [0]
    asked["allowed_token_ids"] = frozenset({2, 3, 4, 5, 39})
    for more, best in [({}, 2), ({"bad_words": ((2,),)}, 3), ({"min_tokens": 1}, 4), ({"stop_token_ids": {4}}, 5)]:
        asked.update({key: frozenset(v) if isinstance(v, set) else v for key, v in more.items()})
        assert Sampler(frozenset({3})).sample(logits, [make_request([1], **asked)]).token_ids == [best]
    request = make_request([1], **asked)
    request.mask = bitmask([0, 1, 2, 3, 4, 39], 40)
    assert Sampler(frozenset({3})).sample(logits, [request]).token_ids == [39]


def test_masks_win_over_biases_and_penalties(make_request: MakeRequest) -> None:
    """A negative penalty and a bias lift tokens, but none that a mask excludes."""
    logits = np.zeros((1, 4), np.float32)
    request = make_request([1], temperature=0, logit_bias={0: 100.0, 2: 1.0}, bad_words=((0,),), presence_penalty=-2.0)
    request.append(0)
    assert Sampler().sample(logits, [request]).token_ids == [2]


def test_a_bias_is_added_after_penalties(make_request: MakeRequest) -> None:
    """Token 0 was seen: 4 / 2 + 1 = 3 is above 2.75; the other way round (4 + 1) / 2 = 2.5 would be below."""
    request = make_request([0], temperature=0, repetition_penalty=2.0, logit_bias={0: 1.0})
    assert Sampler().sample(np.array([[4.0, 2.75]], np.float32), [request]).token_ids == [0]


def test_frequency_and_presence_come_after_repetition(make_request: MakeRequest) -> None:
    """4 / 2 - 1 = 1 is below 1.25; the other way round (4 - 1) / 2 = 1.5 would be above."""
    request = make_request([1], temperature=0, repetition_penalty=2.0, presence_penalty=1.0, repeat_last_n=1)
    request.append(0)
    assert Sampler().sample(np.array([[4.0, 1.25]], np.float32), [request]).token_ids == [1]


def test_dry_comes_before_repetition(make_request: MakeRequest) -> None:
    """After 2 3 2, DRY takes 1 from token 3: (4 - 1) / 2 = 1.5 is below 1.75; 4 / 2 - 1 = 1 would be below 1.25."""
    dry = {"dry_multiplier": 1.0, "dry_allowed_length": 1, "dry_sequence_breakers": ()}
    for rival, chosen in [(1.75, 0), (1.25, 3)]:
        request = make_request([2, 3, 2], temperature=0, repetition_penalty=2.0, **dry)
        logits = np.array([[rival, -9.0, -9.0, 4.0]], np.float32)
        assert Sampler().sample(logits, [request]).token_ids == [chosen]


def test_temperature_comes_before_min_p(make_request: MakeRequest) -> None:
    """e^-2 is under 0.3; at temperature 4 it is e^-0.5, which is not."""
    logits = np.array([0.0, -2.0], np.float32)
    cold = Sampler().distribution(logits, make_request([1], min_p=0.3))
    warm = Sampler().distribution(logits, make_request([1], min_p=0.3, temperature=4.0))
    assert not isinstance(cold, int)
    assert not isinstance(warm, int)
    assert len(cold.weights) == 1
    assert len(warm.weights) == 2


def test_biases_and_penalties_change_what_greedy_takes(make_request: MakeRequest) -> None:
    logits = np.array([[0.0, 1.0, 10.0]], np.float32)
    assert Sampler().sample(logits, [make_request([1], temperature=0, logit_bias={2: -100.0})]).token_ids == [1]
    assert Sampler().sample(logits, [make_request([2], temperature=0, repetition_penalty=100.0)]).token_ids == [1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_logits_stay(temperature: float, make_request: MakeRequest) -> None:
    logits = random_logits(1)
    before = logits.copy()
    everything = {
        "bad_words": ((1,),),
        "repetition_penalty": 2.0,
        "logit_bias": {3: 1.0},
        "top_p": 0.5,
        "typical_p": 0.9,
    }
    request = make_request([5, 6], temperature=temperature, min_tokens=3, logprobs=3, **everything)
    request.mask = bitmask(list(range(0, 300, 2)), 300)
    sampler = Sampler(frozenset({EOS}))
    sampler.sample(logits, [request])
    assert (logits == before).all()


def company(make_request: MakeRequest, num: int, vocab: int) -> list[Request]:
    """Requests of every kind, with outputs of different lengths."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.3},
        {"top_k": 7},
        {"top_p": 0.9},
        {"top_p": 0.9, "temperature": 5.0},
        {"min_p": 0.05},
        {"typical_p": 0.7},
        {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "repeat_last_n": 0, "logprobs": 4},
        {"dry_multiplier": 0.8, "dry_sequence_breakers": (3,), "logprobs": 0},
        {"logit_bias": {5: 4.0}, "allowed_token_ids": frozenset(range(0, vocab, 3)), "logprobs": 20},
        {"bad_words": ((5, 6), (9,)), "min_tokens": 100, "top_p": 0.95},
        {"temperature": 0.7, "mask": True},
    ]
    requests, rng = [], np.random.default_rng(1)
    for i in range(num):
        params = dict(kinds[i % len(kinds)])
        masked = params.pop("mask", False)
        request = make_request(rng.integers(0, 20, 30).tolist(), seed=i // 2, **params)
        for token_id in rng.integers(0, 20, i).tolist():
            request.append(token_id)
        if masked:
            request.mask = bitmask(rng.choice(vocab, vocab // 3, replace=False).tolist(), vocab)
        requests.append(request)
    return requests


@pytest.mark.parametrize("vocab", [301, 20_011])  # odd: rows begin at odd addresses
def test_same_seed_same_tokens_and_logprobs_whatever_the_batch_mates(vocab: int, make_request: MakeRequest) -> None:
    logits, requests = random_logits(24, vocab), company(make_request, 24, vocab)
    sampler = Sampler(frozenset({EOS}))
    together = sampler.sample(logits, requests)
    for i, (row, request) in enumerate(zip(logits, requests, strict=True)):
        alone = Sampler(frozenset({EOS})).sample(row[None].copy(), [request])
        assert alone == ([together.token_ids[i]], [together.logprobs[i]])
    order = np.random.default_rng(2).permutation(24).tolist()
    again = sampler.sample(logits[order], [requests[i] for i in order])
    assert again.token_ids == [together.token_ids[i] for i in order]
    assert sum(item is not None for item in together.logprobs) == 6


def test_uniform_is_a_function_of_seed_and_position() -> None:
    values = np.array([[uniform(seed, position) for position in range(40)] for seed in (-1, 0, 1, 2**64 - 2)])
    assert len(np.unique(values)) == values.size
    assert ((values >= 0) & (values < 1)).all()
    assert uniform(7, 3) == uniform(7, 3)
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)
