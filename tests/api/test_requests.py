"""What requests may hold: the signatures are mistral.rs's, and so are the errors."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from mistralrs_onnx.requests import ChatCompletionRequest, CompletionRequest
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec

CHAT = (
    "messages model logprobs n_choices logit_bias top_logprobs max_tokens presence_penalty frequency_penalty stop_seqs "
    "temperature top_p top_k stream grammar grammar_type adapters"
)
COMPLETION = (
    "prompt model best_of echo_prompt presence_penalty frequency_penalty logit_bias max_tokens n_choices stop_seqs "
    "temperature top_p suffix top_k grammar grammar_type adapters"
)


@pytest.mark.parametrize(("kind", "names"), [(ChatCompletionRequest, CHAT), (CompletionRequest, COMPLETION)])
def test_the_order_of_arguments_is_mistralrs(kind: Any, names: str) -> None:
    parameters = inspect.signature(kind).parameters.values()
    assert [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY] == names.split()


@pytest.mark.parametrize("messages", [None, 5, ["hi"], {"role": "user", "content": "hi"}, b"hi"])
def test_messages_are_a_text_or_dicts(messages: Any) -> None:
    with pytest.raises(TypeError, match=r"^Expected a string or list of dicts\.$"):
        ChatCompletionRequest(messages, "tiny")


def test_a_prompt_is_a_text() -> None:
    with pytest.raises(TypeError, match="prompt must be a string, got list"):
        CompletionRequest(["a"], "tiny")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ChatCompletionRequest, CompletionRequest])
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"grammar_type": "regex"}, "^Grammar type is specified but not grammar text$"),
        ({"grammar": "a+"}, "^Grammar text is specified but not grammar type: give one of regex, "),
        ({"grammar": "a+", "grammar_type": "regexp"}, "grammar_type must be one of regex, .*; did you mean regex"),
        ({"grammar": "", "grammar_type": "regex"}, "grammar must not be empty"),
        ({"grammar": "[", "grammar_type": "json_schema"}, "grammar is no JSON"),
        ({"n_choices": 0}, "n_choices must be an integer of at least 1, got 0"),
        ({"n_choices": True}, "n_choices must be an integer of at least 1, got True"),
    ],
)
def test_what_cannot_be_meant_is_refused(kind: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind("text", "tiny", **fields)


def test_alternatives_need_log_probabilities() -> None:
    with pytest.raises(ValueError, match="top_logprobs needs logprobs"):
        ChatCompletionRequest("text", "tiny", top_logprobs=2)
    assert ChatCompletionRequest("text", "tiny", logprobs=True).num_logprobs == 0
    assert ChatCompletionRequest("text", "tiny", logprobs=True, top_logprobs=2).num_logprobs == 2


def test_a_schema_may_be_a_dict_or_its_text() -> None:
    spec = GrammarSpec("json_schema", '{"type":"object"}')
    for grammar in ({"type": "object"}, '{"type": "object"}'):
        assert ChatCompletionRequest("text", "tiny", grammar=grammar, grammar_type="json_schema").spec() == spec


def test_fewer_than_the_choices_are_not_drawn() -> None:
    assert CompletionRequest("text", "tiny", n_choices=3).num_drawn == 3
    best = CompletionRequest("text", "tiny", n_choices=2, best_of=5)
    assert (best.num_drawn, best.num_logprobs) == (5, 0)
    with pytest.raises(ValueError, match="best_of must be an integer of at least 1"):
        CompletionRequest("text", "tiny", best_of=0)
