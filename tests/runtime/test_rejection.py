"""What is drawn until it is kept follows the filtered probabilities, and the sampler draws so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from chi_square import Array, chi_square, critical

from mistralrs_onnx.runtime.filters import distribution
from mistralrs_onnx.runtime.leading import Groups, Workspace
from mistralrs_onnx.runtime.near import near_tokens
from mistralrs_onnx.runtime.rejection import MOST_TRIES, PIECE, SMALLEST, by_typicality, by_weight, draw_kept
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import Sampler, uniform
from mistralrs_onnx.runtime.sampling import SamplingParams

pytestmark = pytest.mark.usefixtures("passes")
MakeRequest = Callable[..., Request]
VOCAB = SMALLEST + 77
SETTINGS: list[dict[str, Any]] = [
    {"top_p": 0.9},
    {"top_p": 0.5, "temperature": 3.0},
    {"typical_p": 0.9},
    {"typical_p": 0.5, "temperature": 0.7},
]


@pytest.fixture(scope="module")
def row() -> Array:
    """Flat, with equals, and with tokens that are masked."""
    found = np.random.default_rng(1).normal(0, 1.5, VOCAB).astype(np.float32)
    found[::50] = found[7]
    found[3::40] = -np.inf
    return found


def probabilities(row: Array, params: SamplingParams) -> Array:
    """Of `distribution`, which has tests of its own."""
    found = distribution(Groups(row), params)
    dense = np.zeros(len(row))
    dense[slice(None) if found.token_ids is None else found.token_ids] = found.weights
    return dense / dense.sum()


def numbers(seed: int, position: int) -> Iterator[float]:
    return map(partial(uniform, seed, position), itertools.count())


def draw_all(row: Array, params: SamplingParams, count: int) -> Array:
    groups, space = Groups(row), Workspace(len(row))
    return np.array([draw_kept(groups, params, numbers(seed, 0), space) for seed in range(count)])


def check(row: Array, setting: dict[str, Any], count: int) -> None:
    params = SamplingParams(**setting)
    drawn = draw_all(row, params, count)
    assert drawn.dtype == np.int64, "none was left to another way"
    statistic, freedom = chi_square(drawn, count * probabilities(row, params))
    assert statistic <= critical(freedom)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_draws_follow_the_filtered_probabilities(row: Array, setting: dict[str, Any]) -> None:
    check(row, setting, 20_000)


@pytest.mark.parametrize("asked", ["top_p", "typical_p"])
@pytest.mark.parametrize("lead", [2, 9])
def test_rows_with_few_likely_tokens_too(lead: float, asked: str) -> None:
    """Of a mass that is spread over others, which have to be looked at for some draws or for most."""
    peaked = np.random.default_rng(4).normal(0, 1.5, VOCAB).astype(np.float32)
    peaked[50:90:2] += np.float32(lead)
    peaked[[7, 8]] += np.float32(lead + 8)
    assert near_tokens(Groups(peaked), 0.6) is not None
    check(peaked, {asked: 0.9, "temperature": 0.6}, 20_000)


@pytest.mark.full
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_also_100_000(row: Array, setting: dict[str, Any]) -> None:
    check(row, setting, 100_000)


@pytest.mark.parametrize("wrong", [{"top_p": 0.88}, {"typical_p": 0.85}], ids=str)
def test_a_small_mistake_would_be_noticed(row: Array, wrong: dict[str, Any]) -> None:
    right = SamplingParams(**dict.fromkeys(wrong, 0.9))
    expected = 20_000 * probabilities(row, right)
    counted = np.bincount(draw_all(row, SamplingParams(**wrong), 20_000), minlength=VOCAB)
    kept = probabilities(row, SamplingParams(**wrong)) > 0
    assert expected[~kept].sum() > 100, "what is wrongly left out"
    assert not counted[~kept].any()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_sampler_draws_so(row: Array, setting: dict[str, Any], make_request: MakeRequest) -> None:
    request = make_request([1, 2], seed=3, **setting)
    for position in range(5):
        expected = draw_kept(Groups(row), request.params, numbers(3, position), Workspace(VOCAB))
        assert Sampler().sample(row[None], [request]).token_ids == [expected]
        request.append(int(expected or 0))


def test_long_rows_are_looked_at_in_pieces_until_they_decide() -> None:
    """Places at borders and in the middle of pieces, and equals; sums of float32 weights err by 1e-6 of all."""
    long = np.random.default_rng(2).normal(0, 1.0, 3 * PIECE + 1000).astype(np.float32).round(2)
    long[5::70] = -np.inf
    space, wide = Workspace(len(long)), np.exp(long.astype(np.float64))
    distances = np.abs(long - (np.where(wide > 0, long, 0) * wide).sum() / wide.sum())
    places = [0, 1, PIECE - 1, PIECE, 2 * PIECE + 7, len(long) - 1, *range(100, len(long), 977)]
    for keys, make in ((-long, by_weight), (distances, by_typicality)):
        order, found = make(Groups(long), SamplingParams(top_p=0.8, typical_p=0.8), space), []
        for place in places:
            ties = np.isclose(keys[:place], keys[place], atol=1e-5)
            before = (wide[keys < keys[place] - 1e-5].sum() + wide[:place][ties].sum()) / wide.sum()
            found.append(order.is_kept(place))
            assert found[-1] == (before < 0.8) or abs(before - 0.8) < 1e-5
        assert 0.4 * len(found) < sum(found) < len(found)


@pytest.mark.parametrize(
    "setting",
    [
        {"top_p": 0.3},
        {"typical_p": 0.3},
        {"top_p": 0.9, "min_p": 0.1},
        {"top_p": 0.9, "top_k": 10},
        {"top_p": 0.9, "typical_p": 0.9},
    ],
    ids=str,
)
def test_other_rows_and_filters_are_worked_out(row: Array, setting: dict[str, Any]) -> None:
    assert draw_kept(Groups(row), SamplingParams(**setting), numbers(1, 1), Workspace(VOCAB)) is None
    assert draw_kept(Groups(row[:100]), SamplingParams(**setting), numbers(1, 1), Workspace(100)) is None


def test_bad_luck_ends(row: Array) -> None:
    """Always the same number, at which lies what is left out."""
    params = SamplingParams(top_p=0.6)
    left_out = int(np.where(np.isfinite(row), row, np.inf).argmin())
    weights = np.exp(row.astype(np.float64))
    least = float((weights[:left_out].sum() + weights[left_out] / 2) / weights.sum())
    tries = iter([least] * (MOST_TRIES + 1))
    assert draw_kept(Groups(row), params, tries, Workspace(VOCAB)) is None
    assert len(list(tries)) == 1


def test_tries_have_numbers_of_their_own() -> None:
    numbers = {uniform(seed, position, attempt) for seed in range(9) for position in range(9) for attempt in range(9)}
    assert len(numbers) == 9**3
    assert uniform(5, 6) == uniform(5, 6, 0)
