"""What a request may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import SamplingParams


def test_defaults_sample_plainly_to_the_end_of_the_context() -> None:
    params = SamplingParams()
    assert params.max_tokens is None
    assert not params.is_greedy
    assert not params.has_penalties


@pytest.mark.parametrize("temperature", [0, 0.0, 1e-8])
def test_no_temperature_is_greedy(temperature: float) -> None:
    assert SamplingParams(temperature=temperature).is_greedy


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": -0.1},
        {"temperature": 100.1},
        {"temperature": float("nan")},
        {"temperature": True},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -2},
        {"top_k": True},
        {"top_k": 1.0},
        {"min_p": float("inf")},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"repeat_last_n": -1},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"seed": 2**64},
        {"seed": -(2**63) - 1},
        {"stop": ("",)},
        {"stop": ("x" * 257,)},
        {"stop": ("x",) * 17},
        {"stop_token_ids": frozenset({-1})},
        {"stop_token_ids": frozenset(range(257))},
    ],
)
def test_what_is_out_of_range_is_refused_by_name(asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**asked)
    assert caught.value.status == 400
    assert caught.value.param == next(iter(asked))
    assert caught.value.param in str(caught.value)


def test_limits_themselves_are_allowed() -> None:
    SamplingParams(temperature=2, top_k=-1, top_p=1, min_p=1, seed=-(2**63), stop=("x" * 256,) * 16, max_tokens=1)
