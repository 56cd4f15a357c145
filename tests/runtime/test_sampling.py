"""What a request may ask for."""

from __future__ import annotations

from dataclasses import replace
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
        {"typical_p": 0.0},
        {"typical_p": 1.5},
        {"repetition_penalty": 1e-3},
        {"min_tokens": -1},
        {"min_tokens": 3, "max_tokens": 2},
        {"logprobs": 21},
        {"logprobs": -1},
        {"logprobs": True},
        {"dry_multiplier": -0.1},
        {"dry_base": 0.9},
        {"dry_base": float("nan")},
        {"dry_allowed_length": 0},
        {"dry_range": -1},
        {"dry_sequence_breakers": ("",)},
        {"dry_sequence_breakers": ("x" * 65,)},
        {"dry_sequence_breakers": ("x",) * 65},
        {"dry_sequence_breakers": (-1,)},
        {"dry_sequence_breakers": (1.5,)},
        {"logit_bias": {1: 100.1}},
        {"logit_bias": {1: "much"}},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {"1": 1.0}},
        {"logit_bias": dict.fromkeys(range(1025), 1.0)},
        {"allowed_token_ids": frozenset()},
        {"allowed_token_ids": frozenset({-1})},
        {"allowed_token_ids": frozenset(range(32_769))},
        {"bad_words": ((),)},
        {"bad_words": ((1, -1),)},
        {"bad_words": ((1,) * 65,)},
        {"bad_words": ((1,),) * 257},
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
    SamplingParams(logit_bias=dict.fromkeys(range(1024), -100), bad_words=((1,) * 64,) * 256, logprobs=20)
    SamplingParams(dry_multiplier=100, dry_base=1, dry_allowed_length=1, dry_sequence_breakers=("x" * 64,) * 64)
    SamplingParams(allowed_token_ids=frozenset(range(32_768)), min_tokens=2**31, typical_p=1)


def test_what_is_asked_for_says_whether_logits_change() -> None:
    unchanged = SamplingParams(temperature=0.5, top_k=3, top_p=0.5, logprobs=3, logit_bias={3: 0.0})
    assert not unchanged.edits_logits
    changes: list[dict[str, Any]] = [
        {"logit_bias": {3: 1.0}},
        {"allowed_token_ids": frozenset({1})},
        {"bad_words": ((1,),)},
        {"min_tokens": 1},
        {"dry_multiplier": 0.1},
        {"presence_penalty": 0.1},
        {"repetition_penalty": 1.1},
    ]
    assert all(SamplingParams(**change).edits_logits for change in changes)


def test_params_are_values() -> None:
    """Equal, hashable and replaced as such, with arrays that follow."""
    params = SamplingParams(logit_bias={3: 1.0}, bad_words=((4,), (5, 6)), allowed_token_ids=frozenset({9, 2}))
    assert params == SamplingParams(logit_bias={3: 1.0}, bad_words=((4,), (5, 6)), allowed_token_ids=frozenset({2, 9}))
    assert hash(params) == hash(replace(params))
    changed = replace(params, logit_bias={7: 2.0}, seed=1)
    assert changed != params
    assert (changed.bias_ids.tolist(), changed.biases.tolist(), changed.banned_ids.tolist()) == ([7], [2.0], [4])
    assert changed.allowed_ids is not None
    assert changed.allowed_ids.tolist() == [2, 9]
