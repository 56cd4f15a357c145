"""Outputs of one request: what ends it, and that text, tokens and log probabilities all arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.answers import Answer, Output
from mistralrs_onnx.runtime.detokenizer import UNKNOWN, Vocabulary
from mistralrs_onnx.runtime.logprobs import TokenLogprobs
from mistralrs_onnx.runtime.request import Request

MakeRequest = Callable[..., Request]


def run(request: Request, token_ids: list[int], tokenizer: Tokenizer, eos: int = -1) -> list[Output]:
    """Outputs until one says how it ended; cancelled if none does."""
    outputs: list[Output] = []
    answer = Answer(request, outputs.append, Vocabulary(tokenizer), frozenset({eos}))
    for token_id in token_ids:
        request.append(token_id)
        told = TokenLogprobs(token_id, -float(request.num_output), ())
        output = answer.push(told if request.params.logprobs is not None else None)
        if output is not None:
            outputs.append(output)
            if output.finish_reason is not None:
                return outputs
    return [*outputs, answer.end("cancelled")]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def text_of(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_log_probabilities_come_with_their_tokens(
    data: st.DataObject, tokenizer: Tokenizer, make_request: MakeRequest
) -> None:
    """Bytes that are no characters yet, stop strings that may begin and special tokens hold text back."""
    token_ids = data.draw(st.lists(st.integers(0, 299), min_size=1, max_size=40))
    stops = tuple(data.draw(st.lists(st.text("ab\u00e9", min_size=1, max_size=4), max_size=2)))
    outputs = run(make_request([1], stop=stops, logprobs=0), token_ids, tokenizer, eos=token_ids[-1])
    told = [item for output in outputs for item in output.logprobs]
    assert all(len(output.token_ids) == len(output.logprobs) for output in outputs)
    assert [item.token_id for item in told] == [i for output in outputs for i in output.token_ids]
    assert [item.logprob for item in told] == [-float(i + 1) for i in range(len(told))]
    assert [item.token_id for item in told] == token_ids[: len(told)]


def test_text_that_is_held_back_delays_log_probabilities(tokenizer: Tokenizer, make_request: MakeRequest) -> None:
    token_ids = encode(tokenizer, "x\u20acy")
    assert len(token_ids) > 3
    outputs = run(make_request([1], logprobs=0), token_ids, tokenizer)
    assert [output.text for output in outputs] == ["x", "\u20ac", "y", ""]
    assert [len(output.logprobs) for output in outputs] == [1, len(token_ids) - 2, 1, 0]


def test_nobody_who_does_not_ask_gets_log_probabilities(tokenizer: Tokenizer, make_request: MakeRequest) -> None:
    outputs = run(make_request([1]), encode(tokenizer, "hello"), tokenizer)
    assert all(output.logprobs == () for output in outputs)


@pytest.mark.parametrize(("included", "text"), [(False, "one "), (True, "one two")])
def test_a_stop_string_is_left_out_unless_it_is_asked_for(
    included: bool, text: str, tokenizer: Tokenizer, make_request: MakeRequest
) -> None:
    request = make_request([1], stop=("two",), include_stop_str_in_output=included, logprobs=0)
    outputs = run(request, encode(tokenizer, "one two three"), tokenizer)
    assert text_of(outputs) == text
    assert (outputs[-1].finish_reason, outputs[-1].stop_reason) == ("stop", "two")
    assert sum(len(output.logprobs) for output in outputs) == request.num_output


@pytest.mark.parametrize("kind", ["stop token", "end"])
@pytest.mark.parametrize("included", [False, True])
def test_so_is_the_text_of_a_token_that_ends(
    included: bool, kind: str, tokenizer: Tokenizer, make_request: MakeRequest
) -> None:
    *before, last = encode(tokenizer, "one!")
    stops = frozenset({last}) if kind == "stop token" else frozenset()
    request = make_request([1], stop_token_ids=stops, include_stop_str_in_output=included)
    outputs = run(request, [*before, last, *before], tokenizer, eos=last if kind == "end" else -1)
    assert text_of(outputs) == ("one!" if included else "one")
    assert (outputs[-1].finish_reason, outputs[-1].stop_reason) == ("stop", last if stops else None)
    assert outputs[-1].token_ids[-1] == last


def test_a_special_token_that_ends_has_no_text(tokenizer: Tokenizer, make_request: MakeRequest) -> None:
    end = tokenizer.token_to_id("<|end|>")
    request = make_request([1], include_stop_str_in_output=True)
    assert text_of(run(request, [*encode(tokenizer, "one"), end], tokenizer, eos=end)) == "one"


def test_a_literal_unknown_character_and_lost_bytes_both_come_out(
    tokenizer: Tokenizer, make_request: MakeRequest
) -> None:
    """Numbers that the original's tests have: "a" and two bytes of three are "a" and, at the end, one unknown."""
    unfinished = encode(tokenizer, "a\u20ac")[:-1]
    outputs = run(make_request([1]), unfinished, tokenizer)
    assert [outputs[0].text, outputs[-1].text] == ["a", UNKNOWN]
    literal = run(make_request([1]), encode(tokenizer, UNKNOWN), tokenizer)
    assert text_of(literal) == UNKNOWN


ENDINGS: list[tuple[dict[str, Any], str]] = [
    ({"stop": ("b",)}, "stop string"),
    ({"stop_token_ids": "b"}, "stop token"),
    ({}, "end"),
]


@pytest.mark.parametrize(("asked", "kind"), ENDINGS, ids=[kind for _, kind in ENDINGS])
@pytest.mark.parametrize("min_tokens", [0, 1, 2, 3, 5, 9])
def test_nothing_ends_before_min_tokens_are_there(
    asked: dict[str, Any], kind: str, min_tokens: int, tokenizer: Tokenizer, make_request: MakeRequest
) -> None:
    """Of x b x b x b the first b beyond min_tokens ends; masks keep tokens from coming sooner, strings just pass."""
    x, b = encode(tokenizer, "xb")
    params = {key: frozenset({b}) if value == "b" else value for key, value in asked.items()}
    request = make_request([1], min_tokens=min_tokens, **params)
    outputs = run(request, [x, b] * 3, tokenizer, eos=b if kind == "end" else -1)
    ends = [n for n in (2, 4, 6) if n > min_tokens]
    if ends:
        assert request.num_output == ends[0]
        assert text_of(outputs) == ("xb" * 3)[: ends[0] - 1]
        assert outputs[-1].finish_reason == "stop"
    else:
        assert text_of(outputs) == "xb" * 3
        assert outputs[-1].finish_reason == "cancelled"


def test_a_stop_string_begun_before_min_tokens_is_cut_whole(tokenizer: Tokenizer, make_request: MakeRequest) -> None:
    token_ids = encode(tokenizer, "x-y-z")
    outputs = run(make_request([1], min_tokens=2, stop=("-y",)), token_ids, tokenizer)
    assert text_of(outputs) == "x"
    assert outputs[-1].stop_reason == "-y"


def test_ignored_ends_leave_stop_tokens_stop_strings_and_the_length(
    tokenizer: Tokenizer, make_request: MakeRequest
) -> None:
    x, b = encode(tokenizer, "xb")
    for asked, number in [({"stop": ("xbx",)}, 3), ({"stop_token_ids": frozenset({x})}, 1), ({"max_len": 3}, 2)]:
        request = make_request([1], ignore_eos=True, **asked)
        outputs = run(request, [x, b] * 4, tokenizer, eos=b)
        assert request.num_output == number
        assert outputs[-1].finish_reason == ("length" if "max_len" in asked else "stop")


def test_one_token_may_be_all(tokenizer: Tokenizer, make_request: MakeRequest) -> None:
    (output,) = run(make_request([1], max_len=2), encode(tokenizer, "xb"), tokenizer)
    assert (output.text, output.finish_reason) == ("x", "length")
