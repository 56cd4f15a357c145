"""Looking at all rows at once, on several threads, changes no token and no probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mistralrs_onnx.runtime import together
from mistralrs_onnx.runtime.masks import num_words
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.rows import compiled_rows
from mistralrs_onnx.runtime.sampler import EXHAUSTED, FAILED, Sampled, Sampler

MakeRequest = Callable[..., Request]

PENALTIES = {"repetition_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": 0.4, "repeat_last_n": 9}
DRY = {"dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_range": 40, "dry_sequence_breakers": (3,)}
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, **PENALTIES, "logprobs": 4},
    {"temperature": 0, "logit_bias": {5: 30.0, 7: -30.0}, **DRY},
    {},
    {"temperature": 5.0, "logprobs": 0},
    {"temperature": 30.0},
    {"top_p": 0.9, **PENALTIES, **DRY, "logprobs": 20},
    {"top_p": 0.8, "temperature": 9.0},
    {"top_p": 0.2, "min_p": 0.01, **DRY},
    {"typical_p": 0.7, "temperature": 4.0},
    {"typical_p": 0.7, "logprobs": 3},
    {"min_p": 0.1, "logit_bias": {9: 4.0}},
    {"top_k": 5, "presence_penalty": -1.0},
    {"top_k": 10**6, "top_p": 0.7},
    {"min_tokens": 50, "stop_token_ids": frozenset({2})},
    {"bad_words": ((1,), (4, 5))},
    {"allowed_token_ids": frozenset({1, 2, 30})},
]

pytestmark = pytest.mark.skipif(compiled_rows() is None, reason="nothing was compiled here")


def logits_of(vocab: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(vocab)
    logits = rng.normal(0, 2, (len(SETTINGS), vocab)).astype(np.float32)
    logits[:, rng.choice(vocab, min(vocab, 40), replace=False)] += rng.exponential(5, min(vocab, 40)).astype(np.float32)
    return logits


def requests_of(make_request: MakeRequest, vocab: int, num_allowed: int | None = None) -> list[Request]:
    rng, made = np.random.default_rng(1), []
    for i, setting in enumerate(SETTINGS):
        request = make_request(rng.integers(0, min(vocab, 60), 100), i, **{"seed": i, **setting})
        for token_id in rng.integers(0, min(vocab, 60), 30).tolist():
            request.append(token_id)
        if num_allowed is not None:
            bits = np.zeros(32 * num_words(vocab), np.uint8)
            bits[rng.choice(vocab, num_allowed, replace=False)] = 1
            request.mask = np.packbits(bits, bitorder="little").view(np.int32)
        made.append(request)
    return made


def one_by_one(logits: NDArray[np.float32], requests: list[Request]) -> Sampled:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "_is_for_all", lambda *_: False)
        return Sampler().sample(logits, requests)


@pytest.mark.parametrize("num_allowed", [None, 9, 30_000])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_rows_of_all_settings(num_threads: int, num_allowed: int | None, make_request: MakeRequest) -> None:
    vocab = 40_001
    logits, requests = logits_of(vocab), requests_of(make_request, vocab, num_allowed)
    before, sampler = logits.copy(), Sampler(num_threads=num_threads)
    assert sampler.sample(logits, requests) == one_by_one(logits, requests)
    assert sampler.sample(logits[5:8], requests[5:8]) == one_by_one(logits[5:8], requests[5:8])  # in larger arrays
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("vocab", [1, 7, 65, 300])
def test_short_rows(vocab: int, make_request: MakeRequest) -> None:
    allowed = frozenset({0})
    logits = logits_of(vocab)
    requests = [make_request([0, 0], i, seed=i, temperature=i, allowed_token_ids=allowed) for i in range(2)]
    requests += [make_request([0, 0], i, seed=i, temperature=i, logprobs=20, repetition_penalty=2.0) for i in range(4)]
    assert Sampler().sample(logits[:6], requests) == one_by_one(logits[:6], requests)


def test_rows_that_fail(make_request: MakeRequest) -> None:
    """Alone: what is no number may be anywhere."""
    vocab, settings = 5000, [{"temperature": 0}, {"top_p": 0.5}, {"logprobs": 3}, {"temperature": 0, **PENALTIES}]
    logits = np.random.default_rng(0).normal(0, 1, (8, vocab)).astype(np.float32)
    requests = [make_request([1, 2], i, seed=i, **settings[i % 4]) for i in range(8)]
    logits[0, 4999], logits[1, 0], logits[2], logits[3, 77] = np.nan, np.inf, np.nan, np.nan
    for request in requests[4:6]:
        request.mask = np.zeros(num_words(vocab), np.int32)
    for request in requests[6:]:  # leaves many, none of which has a probability
        request.mask = np.full(num_words(vocab), 0x55555555, np.int32)
    logits[6:, ::2] = -np.inf
    token_ids, logprobs = Sampler().sample(logits, requests)
    assert token_ids == [FAILED] * 4 + [EXHAUSTED] * 4
    assert logprobs == [None] * 8


@pytest.mark.parametrize("setting", [PENALTIES, DRY, {"logit_bias": {300: 1.0}}, {"presence_penalty": 1.0}])
def test_tokens_beyond_the_vocabulary_change_nothing(setting: dict[str, Any], make_request: MakeRequest) -> None:
    request = make_request([1, 2], **{"temperature": 0, "repeat_last_n": 64, **setting})
    request.append(1 if "logit_bias" in setting else 300)
    with pytest.raises(IndexError, match="vocabulary of 300"):
        Sampler().sample(np.zeros((1, 300), np.float32), [request])
