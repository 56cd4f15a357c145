"""Log probabilities are those of the model, whatever was done to its logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistralrs_onnx.runtime.leading import Workspace
from mistralrs_onnx.runtime.logprobs import LEAST, TokenLogprobs, mean_logprob, prompt_logprobs, token_logprobs
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import EXHAUSTED, FAILED, Sampler

pytestmark = pytest.mark.usefixtures("passes")
MakeRequest = Callable[..., Request]


def test_they_are_natural_logarithms() -> None:
    """A number that the original's tests have."""
    row = np.array([-3.0, -1.0, -2.0], np.float32)
    assert token_logprobs(row, 1, 0).logprob == pytest.approx(-1 - np.log(np.exp([-3, -1, -2]).sum()), abs=1e-6)


def test_they_are_of_the_unfiltered_distribution(make_request: MakeRequest) -> None:
    """Numbers that the original's tests have: 1/6, 2/6, 3/6, though only one token may be chosen."""
    logits = np.log(np.array([[1, 2, 3]], np.float32))
    params = {"top_k": 1, "temperature": 0.5, "repetition_penalty": 50.0, "bad_words": ((2,),), "logit_bias": {0: 3.0}}
    request = make_request([1], logprobs=3, seed=0, **params)
    (token_id,), (told,) = Sampler().sample(logits, [request])
    assert told is not None
    assert told.token_id == token_id == 0
    assert np.exp(told.logprob) == pytest.approx(1 / 6, rel=1e-6)
    assert [token_id for token_id, _ in told.top] == [2, 1, 0]
    np.testing.assert_allclose(np.exp([logprob for _, logprob in told.top]), [3 / 6, 2 / 6, 1 / 6], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(vocab=st.integers(1, 5000), num_top=st.integers(0, 20), seed=st.integers(0, 10**6), shift=st.floats(-500, 500))
def test_they_equal_a_softmax_in_float64(vocab: int, num_top: int, seed: int, shift: float) -> None:
    """Logits of a size of 500 are spaced by 3e-5, and the normaliser of 5000 float32 exponentials errs by 1e-6."""
    row = (3 * np.random.default_rng(seed).standard_normal(vocab) + shift).round(1).astype(np.float32)
    wide = row.astype(np.float64)
    logprobs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    told = token_logprobs(row, seed % vocab, num_top)
    order = np.argsort(-row, kind="stable")[:num_top].tolist()
    assert [token_id for token_id, _ in told.top] == order
    assert told.logprob == pytest.approx(logprobs[seed % vocab], abs=2e-6)
    np.testing.assert_allclose([logprob for _, logprob in told.top], logprobs[order], atol=2e-6)


@pytest.mark.parametrize("shift", [0.0, -45.0, 70.0, 400.0])
@pytest.mark.parametrize("size", [60_000, 60_160])  # with and without a block that is not full
def test_of_long_rows_too_peaked_and_flat_with_equals_and_without(size: int, shift: float) -> None:
    """Logits of a size of 400 are spaced by 3e-5, and the normaliser of float32 exponentials errs by 1e-6."""
    rng = np.random.default_rng(size)
    for num_likely in (0, 1, 5, 300):
        row = rng.normal(shift, 2, size).astype(np.float32)
        row[rng.choice(size, num_likely, replace=False)] += rng.exponential(4, num_likely).astype(np.float32) + 8
        row[-1] += np.float32(9)
        row[rng.choice(size, 7, replace=False)] = np.sort(row)[-12]
        row[::3] = -np.inf
        wide = row.astype(np.float64)
        logprobs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
        for num_top in (1, 15, 20):
            told = token_logprobs(row, 100, num_top, Workspace(size))
            order = np.argsort(-row, kind="stable")[:num_top].tolist()
            assert [token_id for token_id, _ in told.top] == order
            np.testing.assert_allclose([logprob for _, logprob in told.top], logprobs[order], atol=3e-6)
            assert told.rank == (row >= row[100]).sum()


def test_rows_of_equals_have_the_lowest_ids_as_alternatives() -> None:
    told = token_logprobs(np.zeros(60_000, np.float32), 9, 20)
    assert [token_id for token_id, _ in told.top] == list(range(20))


@pytest.mark.parametrize(("token_id", "rank"), [(0, 4), (1, 1), (2, 3), (3, 3)])
def test_ranks_count_what_is_as_likely(token_id: int, rank: int) -> None:
    """As vLLM counts: of equals all have the last place."""
    row = np.array([-4.0, 2.0, 1.0, 1.0], np.float32)
    assert token_logprobs(row, token_id, 0).rank == rank
    assert token_logprobs(row, token_id, 0, Workspace(4)).rank == rank


def test_tokens_without_probability_are_no_alternatives() -> None:
    row = np.full(100, -np.inf, np.float32)
    row[[4, 90]] = 1.0
    assert [token_id for token_id, _ in token_logprobs(row, 4, 5).top] == [4, 90]


def test_only_rows_that_ask_and_have_a_token_are_told(make_request: MakeRequest) -> None:
    logits = np.zeros((4, 50), np.float32)
    logits[2] = np.nan
    requests = [make_request([1], logprobs=n, seed=0) for n in (None, 0, 2, 2)]
    requests[3].mask = np.zeros(2, np.int32)
    token_ids, told = Sampler().sample(logits, requests)
    assert token_ids[2:] == [FAILED, EXHAUSTED]
    assert told[0] is told[2] is told[3] is None
    assert told[1] is not None
    assert told[1] == (token_ids[1], pytest.approx(-np.log(50), abs=1e-6), (), 50)


def test_of_a_prompt_each_token_has_that_of_its_row() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 80)).astype(np.float32)
    token_ids = [3, 79, 0, 5, 5, 41]
    told = list(prompt_logprobs(logits, token_ids, 2))
    assert told == [token_logprobs(row, i, 2) for row, i in zip(logits, token_ids, strict=True)]
    assert [item.token_id for item in told] == token_ids
    with pytest.raises(ValueError, match="shorter"):
        list(prompt_logprobs(logits, token_ids[:-1], 2))


def test_the_mean_of_nothing_is_the_worst() -> None:
    assert mean_logprob([]) == LEAST
    assert mean_logprob([TokenLogprobs(1, -1.0, ()), TokenLogprobs(1, -2.0, ())]) == -1.5
