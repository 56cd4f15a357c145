"""Masks leave the tokens that they should, and no others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistralrs_onnx.runtime.masks import allow_only, apply_bitmask, ban_words, few_allowed, num_words
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import EXHAUSTED, Sampler

pytestmark = pytest.mark.usefixtures("passes")
MakeRequest = Callable[..., Request]


@given(vocab=st.integers(1, 200), seed=st.integers(0, 10**6))
def test_bit_t_of_its_word_is_token_t(vocab: int, seed: int) -> None:
    """Bits beyond the vocabulary are set at random, too."""
    words = np.random.default_rng(seed).integers(-(2**31), 2**31, num_words(vocab)).astype(np.int32)
    row = np.arange(vocab, dtype=np.float32)
    for space in (None, np.empty(32 * num_words(vocab), np.float32)):
        masked = np.empty(vocab, np.float32)
        apply_bitmask(row, words, masked, space)
        for t in range(vocab):
            assert masked[t] == (row[t] if int(words[t // 32]) >> (t % 32) & 1 else -np.inf)


@given(vocab=st.integers(1, 2000), num=st.integers(0, 80), seed=st.integers(0, 10**6))
def test_few_tokens_of_a_mask_are_told(vocab: int, num: int, seed: int) -> None:
    """Bits beyond the vocabulary count where it is asked whether they are few, and are no tokens."""
    bits = np.zeros(32 * num_words(vocab), np.uint8)
    bits[np.random.default_rng(seed).integers(0, len(bits), num)] = 1
    words = np.packbits(bits, bitorder="little").view(np.int32)
    found = few_allowed(words, vocab)
    if bits.sum() > vocab // 32:
        assert found is None
    else:
        assert found is not None
        assert found.tolist() == np.flatnonzero(bits[:vocab]).tolist()


def test_a_mask_of_another_vocabulary_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="words"):
        apply_bitmask(np.zeros(64, np.float32), np.zeros(3, np.int32), np.zeros(64, np.float32))
    with pytest.raises(AssertionError, match="words"):
        few_allowed(np.zeros(3, np.int32), 64)


def test_only_allowed_tokens_stay() -> None:
    row = np.arange(6, dtype=np.float32)
    allow_only(row, np.array([1, 4]))
    assert row.tolist() == [-np.inf, 1, -np.inf, -np.inf, 4, -np.inf]


@pytest.mark.parametrize(
    ("output", "banned"),
    [([], []), ([1], [2]), ([0, 1], [2, 3]), ([1, 0], []), ([0, 1, 2], [4]), ([5, 1, 2], []), ([0, 1, 2, 4], [])],
)
def test_a_bad_word_may_not_be_finished(output: list[int], banned: list[int]) -> None:
    row = np.zeros(6, np.float32)
    ban_words(row, [(1, 2), (0, 1, 3), (0, 1, 2, 4), (5,)], np.array(output, np.int64))
    assert np.flatnonzero(np.isinf(row)).tolist() == banned


def test_bad_words_begin_in_the_output(make_request: MakeRequest) -> None:
    logits = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    request = make_request([2], temperature=0, bad_words=((2, 3), (0,)))
    assert Sampler().sample(logits, [request]).token_ids == [3]
    request.append(2)
    assert Sampler().sample(logits, [request]).token_ids == [2]


def test_nothing_ends_the_output_before_min_tokens(make_request: MakeRequest) -> None:
    logits = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    request = make_request([3], temperature=0, min_tokens=2, stop_token_ids=frozenset({2}))
    chosen = []
    for _ in range(3):
        chosen.append(Sampler(frozenset({3})).sample(logits, [request]).token_ids[0])
        request.append(chosen[-1])
    assert chosen == [1, 1, 3]
    beyond = make_request([3], temperature=0, min_tokens=2)
    assert Sampler(frozenset({4})).sample(logits, [beyond]).token_ids == [3]  # an end that the model cannot say
    unending = make_request([3], temperature=0, min_tokens=2, ignore_eos=True)
    assert Sampler(frozenset({3})).sample(logits, [unending]).token_ids == [3]  # ends nothing, so it may come


@pytest.mark.parametrize("num_allowed", [1, 3, 250])
@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.2}, {"typical_p": 0.9}])
def test_a_masked_token_is_never_drawn(num_allowed: int, params: dict[str, float], make_request: MakeRequest) -> None:
    rng = np.random.default_rng(0)
    logits = np.tile(rng.standard_normal(300).astype(np.float32), (100, 1))
    allowed = rng.choice(300, num_allowed, replace=False)
    bits = np.zeros(320, np.uint8)
    bits[allowed] = 1
    requests = [make_request([1], seed=i, **params) for i in range(100)]
    for request in requests:
        request.mask = np.packbits(bits, bitorder="little").view(np.int32)
    assert set(Sampler().sample(logits, requests).token_ids) <= set(allowed.tolist())


def test_a_mask_of_nothing_exhausts(make_request: MakeRequest) -> None:
    for temperature in (0, 1):
        request = make_request([1], temperature=temperature)
        request.mask = np.zeros(1, np.int32)
        assert Sampler().sample(np.zeros((1, 8), np.float32), [request]).token_ids == [EXHAUSTED]
