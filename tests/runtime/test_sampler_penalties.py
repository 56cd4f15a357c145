"""Penalties against what their formulas say of one token after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistralrs_onnx.runtime.penalties import MAX_MATCH, MOST, count, dry, repeat, repetitions
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import Sampler

pytestmark = pytest.mark.usefixtures("passes")
MakeRequest = Callable[..., Request]


def ids(*token_ids: int) -> np.ndarray[Any, Any]:
    return np.array(token_ids, np.int64)


def slow_dry(
    row: np.ndarray[Any, Any], context: list[int], breakers: set[int], multiplier: float, base: float, allowed: int
) -> np.ndarray[Any, Any]:
    """As the original loops: for each earlier place of the last token, how far back both sides agree."""
    row = row.astype(np.float64)
    if not context or context[-1] in breakers:
        return row
    longest: dict[int, int] = {}
    for i in range(len(context) - 1):
        follower = context[i + 1]
        if context[i] != context[-1] or follower in breakers:
            continue
        m = 1
        while m < 50 and i - m >= 0 and context[i - m] == context[-1 - m] and context[i - m] not in breakers:
            m += 1
        longest[follower] = max(longest.get(follower, 0), m)
    for follower, m in longest.items():
        if m >= allowed:
            row[follower] -= multiplier * base ** (m - allowed)
    return row


@settings(max_examples=300, deadline=None)
@given(
    context=st.lists(st.integers(0, 3), max_size=120),
    breakers=st.sets(st.integers(0, 3), max_size=2),
    allowed=st.integers(1, 5),
    base=st.sampled_from([1.0, 1.75, 3.0]),
)
def test_dry_is_what_loops_find(context: list[int], breakers: set[int], allowed: int, base: float) -> None:
    row = np.zeros(5, np.float32)
    dry(row, np.array(context, np.int64), breakers, 0.8, base, allowed)
    np.testing.assert_allclose(row, slow_dry(np.zeros(5), context, breakers, 0.8, base, allowed), rtol=1e-6)


def test_dry_grows_with_the_length_of_the_repetition() -> None:
    """1 2 3 came before 9: after 3 again, after 2 3, after 1 2 3 ..."""
    for prefix, penalty in [((3,), 0.0), ((2, 3), 0.8), ((1, 2, 3), 0.8 * 1.75)]:
        row = np.zeros(10, np.float32)
        dry(row, ids(1, 2, 3, 9, 5, *prefix), set(), 0.8, 1.75, 2)
        np.testing.assert_allclose(row[9], -penalty, rtol=1e-6)
        assert not row[:9].any()


def test_breakers_end_repetitions_and_are_not_punished() -> None:
    context = ids(1, 2, 3, 9, 5, 1, 2, 3)
    assert [x.tolist() for x in repetitions(context, set(), 1)] == [[9], [3]]
    assert [x.tolist() for x in repetitions(context, {2}, 1)] == [[9], [1]]
    assert [x.tolist() for x in repetitions(context, {9}, 1)] == [[], []]
    assert [x.tolist() for x in repetitions(context, {3}, 1)] == [[], []]


def test_repetitions_have_a_least_length() -> None:
    context = ids(3, 8, 2, 3, 7, 1, 2, 3, 9, 5, 1, 2, 3)
    for at_least, followers in [(1, [8, 7, 9]), (2, [7, 9]), (3, [9]), (4, []), (50, [])]:
        found, lengths = repetitions(context, set(), at_least)
        assert found.tolist() == followers
        assert lengths.tolist() == [1, 2, 3][3 - len(followers) :]


def test_a_long_repetition_is_bounded_and_leaves_a_token() -> None:
    row = np.zeros(2, np.float32)
    dry(row, np.zeros(1000, np.int64), set(), 100.0, 16.0, 1)
    assert repetitions(np.zeros(1000, np.int64), set(), 1)[1].max() == MAX_MATCH
    assert row[0] == np.float32(-MOST)
    assert np.isfinite(row).all()


def test_dry_looks_at_its_range_of_prompt_and_output(make_request: MakeRequest) -> None:
    logits = np.array([[0.0, 0.0, 1.0]], np.float32)
    asked: dict[str, Any] = {"temperature": 0, "dry_multiplier": 5.0, "dry_allowed_length": 1}
    for last, chosen in [(0, 0), (4, 0), (3, 2)]:
        request = make_request([1, 2, 0], dry_range=last, dry_sequence_breakers=(7,), **asked)
        request.append(1)
        assert Sampler().sample(logits, [request]).token_ids == [chosen]


@settings(max_examples=100, deadline=None)
@given(seen=st.lists(st.integers(0, 9), max_size=40), penalty=st.floats(0.1, 10))
def test_repetition_divides_what_is_positive_once(seen: list[int], penalty: float) -> None:
    row = np.random.default_rng(len(seen)).standard_normal(10).astype(np.float32)
    wanted = [(x / penalty if x > 0 else x * penalty) if i in seen else x for i, x in enumerate(row.tolist())]
    repeat(row, np.array(seen, np.int64), penalty)
    np.testing.assert_allclose(row, wanted, rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(output=st.lists(st.integers(0, 9), max_size=40), frequency=st.floats(-2, 2), presence=st.floats(-2, 2))
def test_frequency_counts_and_presence_does_not(output: list[int], frequency: float, presence: float) -> None:
    row = np.zeros(10, np.float32)
    count(row, np.array(output, np.int64), frequency, presence)
    wanted = [-frequency * output.count(i) - presence * (i in output) for i in range(10)]
    np.testing.assert_allclose(row, wanted, atol=1e-4)  # 40 subtractions in float32 of numbers up to 82


def test_repetition_looks_at_prompt_and_output_in_its_window(make_request: MakeRequest) -> None:
    logits = np.array([[3.0, 2.0, -1.0, 1.0]], np.float32)
    wide = make_request([0, 1, 2], temperature=0, repetition_penalty=4.0, repeat_last_n=0)
    assert Sampler().sample(logits, [wide]).token_ids[0] == 3
    narrow = make_request([0, 1, 2], temperature=0, repetition_penalty=4.0, repeat_last_n=1)
    assert Sampler().sample(logits, [narrow]).token_ids[0] == 0
    narrow.append(0)
    assert Sampler().sample(logits, [narrow]).token_ids[0] == 1


def test_frequency_and_presence_look_at_the_output_alone(make_request: MakeRequest) -> None:
    logits = np.array([[3.0, 2.5, 0.0, 1.5]], np.float32)
    often = make_request([0, 0, 0, 0], temperature=0, frequency_penalty=0.4)
    chosen = []
    for _ in range(5):
        chosen.append(Sampler().sample(logits, [often]).token_ids[0])
        often.append(chosen[-1])
    assert chosen == [0, 0, 1, 0, 1]
    present = make_request([0], temperature=0, presence_penalty=1.0)
    present.append(0)
    assert Sampler().sample(logits, [present]).token_ids[0] == 1


@pytest.mark.parametrize("output", [[], [5], [4, 5], [4, 4, 4, 4]])
def test_without_a_repetition_nothing_changes(output: list[int]) -> None:
    row = np.arange(6, dtype=np.float32)
    dry(row, np.array(output, np.int64), {4}, 1.0, 2.0, 1)
    assert row.tolist() == [0, 1, 2, 3, 4, 5]
