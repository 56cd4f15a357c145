"""vLLM's parameters, and what the engine is told of each."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from mistralrs_onnx import RequestError, SamplingParams, StructuredOutputsParams
from mistralrs_onnx.runtime.sampling import SamplingParams as Draw
from mistralrs_onnx.sampling_params import UNSUPPORTED


class Letters:
    """Each character is a token."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return [1] * special + [ord(character) for character in text]


SAID: dict[str, Any] = {
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "repetition_penalty": 1.5,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repeat_last_n": 9,
    "dry_multiplier": 0.8,
    "dry_base": 2.0,
    "dry_allowed_length": 3,
    "dry_range": 100,
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "max_tokens": 7,
    "min_tokens": 2,
    "logprobs": 3,
    "seed": 4,
}


@pytest.mark.parametrize("name", SAID)
def test_each_reaches_the_engine_under_its_name(name: str) -> None:
    (draw,) = SamplingParams(**{name: SAID[name]}).draws(Letters(), {})
    assert getattr(draw, name) == SAID[name] != getattr(SamplingParams().draws(Letters(), {})[0], name)


def test_lists_reach_the_engine() -> None:
    params = SamplingParams(
        stop=["a", "b"],
        stop_token_ids=[1, 2],
        bad_words=["cat"],
        logit_bias={1: 2.5},
        allowed_token_ids=[1, 3],
        dry_sequence_breakers=[5, "x"],
    )
    (draw,) = params.draws(Letters(), {})
    assert (draw.stop, draw.stop_token_ids, draw.allowed_token_ids) == (("a", "b"), {1, 2}, {1, 3})
    assert draw.bad_words == ((99, 97, 116),)
    assert (draw.logit_bias, draw.dry_sequence_breakers) == ({1: 2.5}, (5, "x"))
    assert SamplingParams(stop="a").draws(Letters(), {})[0].stop == ("a",)


def test_defaults_are_those_of_vllm() -> None:
    assert SamplingParams().draws(Letters(), {}) == [Draw(max_tokens=16, repeat_last_n=0)]
    assert SamplingParams(max_tokens=None).draws(Letters(), {})[0].max_tokens is None


def test_what_the_model_was_loaded_with_is_taken_where_nothing_is_said() -> None:
    defaults = {"repeat_last_n": 5, "temperature": 0.1}
    (draw,) = SamplingParams().draws(Letters(), defaults)
    assert (draw.repeat_last_n, draw.temperature) == (5, 1.0)
    assert SamplingParams(repeat_last_n=0).draws(Letters(), defaults)[0].repeat_last_n == 0


def test_every_answer_has_a_seed_of_its_own() -> None:
    draws = SamplingParams(n=2, best_of=3, seed=7).draws(Letters(), {})
    assert [draw.seed for draw in draws] == [7, 8, 9]
    assert [draw.logprobs for draw in draws] == [0, 0, 0]  # to tell the best
    assert [draw.seed for draw in SamplingParams(n=2).draws(Letters(), {})] == [None, None]


def test_constraints_are_read() -> None:
    spec = SamplingParams(structured_outputs=StructuredOutputsParams(json={"type": "object"})).spec()
    assert (spec.kind, spec.text) == ("json_schema", '{"type":"object"}')
    assert SamplingParams(structured_outputs={"regex": "a+"}).spec().kind == "regex"
    assert SamplingParams(structured_outputs=StructuredOutputsParams(json_object=True)).spec().kind == "json_object"
    assert SamplingParams(structured_outputs=StructuredOutputsParams(grammar='root ::= "a"')).spec().kind == "gbnf"
    assert SamplingParams(grammar={"type": "choice", "value": ["a"]}).spec().kind == "choice"
    assert SamplingParams().spec() is None


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"n": 0}, "n must be an integer from 1 to"),
        ({"n": 2, "best_of": 1}, "best_of must be an integer from 2 to"),
        ({"temperature": -1}, "temperature must be a number from 0"),
        ({"max_tokens": 0}, "max_tokens must be an integer from 1"),
        ({"logprobs": -1}, "logprobs must be an integer from 0 to 20"),
        ({"prompt_logprobs": 21}, "prompt_logprobs must be an integer from 0 to 20"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens must be an integer from 1"),
        ({"bad_words": "cat"}, "bad_words must be a list of texts"),
        ({"bad_words": [3]}, "bad_words must be a list of texts"),
        ({"skip_special_tokens": False}, "read them from token_ids"),
        ({"detokenize": False}, "detokenize can only be True"),
        ({"logits_processors": [print]}, "no Python runs between the tokens"),
        ({"extra_args": {"a": 1}}, "nothing here reads them"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "both constrain the output"),
        ({"structured_outputs": {"regex": "a"}, "grammar": {"type": "regex", "value": "a"}}, "both constrain"),
        ({"structured_outputs": {"backend": "x"}}, "may have json, regex"),
    ],
)
def test_what_cannot_be_is_refused_by_name(said: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        SamplingParams(**said)
    assert caught.value.param.partition(".")[0] in said


def test_what_is_changed_later_is_looked_at_when_it_is_used() -> None:
    params = SamplingParams()
    params.max_tokens = 100
    assert params.draws(Letters(), {})[0].max_tokens == 100
    params.top_p = 2
    with pytest.raises(RequestError, match="top_p"):
        params.draws(Letters(), {})
    with pytest.raises(AttributeError):
        params.max_token = 5
    with pytest.raises(TypeError, match="max_token"):
        SamplingParams(max_token=5)


def test_no_parameter_is_forgotten() -> None:
    """Each is a parameter of the engine, or has a test of its own here or in test_llm."""
    ours = {field.name for field in fields(SamplingParams)}
    elsewhere = {"n", "best_of", "prompt_logprobs", "structured_outputs", "grammar", "truncate_prompt_tokens"}
    assert ours - {field.name for field in fields(Draw) if field.init} == elsewhere | {"output_kind"} | set(UNSUPPORTED)
