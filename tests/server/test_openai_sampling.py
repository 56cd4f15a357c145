"""What the official client may ask of the sampler, of grammars and of log probabilities."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import openai
import pytest

from mistralrs_onnx.bad_words import word_tokens
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec
from mistralrs_onnx.runtime.sampling import SamplingParams

ASKED: dict[str, tuple[Any, Any]] = {  # what is sent, what the engine gets
    "max_tokens": (9, 9),
    "min_tokens": (2, 2),
    "temperature": (0.5, 0.5),
    "top_k": (7, 7),
    "top_p": (0.75, 0.75),
    "min_p": (0.125, 0.125),
    "typical_p": (0.875, 0.875),
    "repetition_penalty": (1.25, 1.25),
    "frequency_penalty": (0.5, 0.5),
    "presence_penalty": (-0.5, -0.5),
    "repeat_last_n": (5, 5),
    "dry_multiplier": (0.75, 0.75),
    "dry_base": (2, 2),
    "dry_allowed_length": (3, 3),
    "dry_sequence_breakers": (["\n", "x"], ("\n", "x")),
    "dry_range": (40, 40),
    "logit_bias": ({"97": -1, "98": 2.5}, {97: -1, 98: 2.5}),
    "allowed_token_ids": ([97, 98, 99], frozenset([97, 98, 99])),
    "bad_words": (["no"], ((110, 111),)),
    "seed": (11, 11),
    "stop": ("zz", ("zz",)),
    "stop_token_ids": ([5, 6], frozenset([5, 6])),
    "include_stop_str_in_output": (True, True),
    "ignore_eos": (True, True),
}


def chat(running: Any, content: str = "abc", **options: Any) -> Any:
    create = running.client().chat.completions.create
    return create(model="parrot", messages=[{"role": "user", "content": content}], **options)


def complete(running: Any, prompt: Any = "abc", **options: Any) -> Any:
    return running.client().completions.create(model="parrot", prompt=prompt, **options)


def test_there_is_a_field_for_everything() -> None:
    assert {field.name for field in fields(SamplingParams) if field.init} == ASKED.keys() | {"logprobs"}


@pytest.mark.parametrize("ask", [chat, complete])
@pytest.mark.parametrize("field", ASKED)
def test_every_field_reaches_the_engine(running: Any, ask: Any, field: str) -> None:
    sent, expected = ASKED[field]
    ask(running, extra_body={field: sent})
    found = running.engine.submitted[-1].params
    assert getattr(found, field) == expected
    ask(running, extra_body={field: None})
    assert getattr(running.engine.submitted[-1].params, field) != expected


def test_biases_of_a_request_join_those_that_the_model_recommends(serve: Any, parrot_model: Any) -> None:
    running = serve(parrot_model(defaults={"logit_bias": {1: -100.0, 2: -100.0}}))
    chat(running, logit_bias={"2": 1, "3": 4})
    assert running.engine.submitted[-1].params.logit_bias == {1: -100.0, 2: 1, 3: 4}


class Words:
    """Spaces belong to the token behind them, as with most tokenizers."""

    TOKENS = ("no", " no", "long", " long", "er", "x", " ")

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        assert not special
        ids = []
        while text:
            token = max((token for token in self.TOKENS if text.startswith(token)), key=len)
            ids.append(self.TOKENS.index(token))
            text = text.removeprefix(token)
        return ids


def test_bad_words_are_meant_with_and_without_a_space_before_them() -> None:
    assert word_tokens(["no"], Words()) == ((0,), (1,))
    assert word_tokens([" longer"], Words()) == ((2, 4), (3, 4))
    assert word_tokens(["x"], Words()) == ((5,),)  # behind a space it is the same token
    assert word_tokens([" "], Words()) == ((6,),)


# --- Log probabilities.


def test_a_chat_tells_log_probabilities(running: Any) -> None:
    choice = chat(running, logprobs=True, top_logprobs=2).choices[0]
    told = choice.logprobs.content
    assert [each.token for each in told] == ["a", "b", "c"]
    assert [each.bytes for each in told] == [[97], [98], [99]]
    assert {each.logprob for each in told} == {-0.5}
    assert [[top.token for top in each.top_logprobs] for each in told] == [["a", "b"], ["b", "c"], ["c", "d"]]
    alone = chat(running, logprobs=True).choices[0].logprobs.content
    assert [each.top_logprobs for each in alone] == [[], [], []]
    assert chat(running).choices[0].logprobs is None


def test_completions_tell_log_probabilities(running: Any) -> None:
    told = complete(running, max_tokens=3, logprobs=2).choices[0].logprobs
    assert told.tokens == ["a", "b", "c"]
    assert told.text_offset == [0, 1, 2]
    assert told.token_logprobs == [-0.5] * 3
    assert told.top_logprobs[0] == {"a": -0.5, "b": -1.5}
    assert complete(running, max_tokens=3, logprobs=0).choices[0].logprobs.top_logprobs[0] == {"a": -0.5}
    assert complete(running, max_tokens=3).choices[0].logprobs is None


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
@pytest.mark.parametrize("prompt", ["abc", [97, 98, 99], ["abc", "xyz"], [[97, 98, 99], [120]]])
def test_echo_tells_of_the_prompt(running: Any, prompt: Any, max_tokens: int) -> None:
    answer = complete(running, prompt, max_tokens=max_tokens, logprobs=1, echo=True)
    prompts = prompt if isinstance(prompt[0], list | str) and prompt != "abc" else [prompt]
    texts = [text if isinstance(text, str) else bytes(text).decode() for text in prompts]
    for choice, text in zip(answer.choices, texts, strict=True):
        assert choice.text == text + (text * 3)[:max_tokens]
        told = choice.logprobs
        assert told.tokens == list(choice.text)
        assert told.text_offset == list(range(len(choice.text)))
        assert told.token_logprobs == [None] + [-0.5] * (len(choice.text) - 1)
        assert told.top_logprobs[0] is None
        assert all(told.top_logprobs[1:])
        assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == max_tokens * len(texts)


def test_nothing_but_the_prompt_needs_echo(running: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        complete(running, max_tokens=0)
    assert complete(running, max_tokens=0, echo=True).choices[0].text == "abc"
    chunks = list(complete(running, max_tokens=0, echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "abc"


@pytest.mark.parametrize("echo", [False, True])
def test_streamed_log_probabilities_are_the_whole_ones(running: Any, echo: bool) -> None:
    options: dict[str, Any] = {"max_tokens": 5, "logprobs": 2, "echo": echo, "n": 2}
    whole = complete(running, ["abc", "xy"], **options)
    told: list[dict[str, list[Any]]] = [{} for _ in whole.choices]
    for chunk in complete(running, ["abc", "xy"], stream=True, **options):
        for choice in chunk.choices:
            for key, values in (choice.logprobs.model_dump() if choice.logprobs else {}).items():
                told[choice.index].setdefault(key, []).extend(values)
    assert told == [choice.logprobs.model_dump() for choice in whole.choices]


@pytest.mark.parametrize("source", ["", "<think>", "<tool_call>"])
def test_streamed_log_probabilities_of_a_chat_are_the_whole_ones(serve: Any, parrot_model: Any, source: str) -> None:
    """Also where some of the text is held back, because it may be the beginning of a thought."""
    running = serve(parrot_model(template_source=source))
    content = "<think>so</think>a<" if source else "abc"
    tools: Any = [{"type": "function", "function": {"name": "f"}}] if source == "<tool_call>" else openai.NOT_GIVEN
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 1, "tools": tools}
    whole = chat(running, content, **options).choices[0].logprobs
    assert [each.token for each in whole.content] == list(content)
    told = []
    for chunk in chat(running, content, stream=True, **options):
        for choice in chunk.choices:
            told += choice.logprobs.content if choice.logprobs else []
    assert told == whole.content


# --- Several answers.


def test_answers_to_one_prompt_are_forks_of_the_first(running: Any) -> None:
    complete(running, ["abc", "xyz"], n=3, seed=5, max_tokens=2)
    first, *others = running.engine.submitted[-6:]
    assert first.parent is None
    assert [other.parent for other in others] == [first, first, None, others[2], others[2]]
    assert [request.params.seed for request in (first, *others)] == [5, 6, 7] * 2


def test_the_best_of_several(running: Any) -> None:
    """A parrot is the surer, the smaller its seed modulo 100."""
    answer = complete(running, ["abc", "x"], n=2, best_of=4, seed=98, max_tokens=1, logprobs=0)
    assert [choice.logprobs.token_logprobs for choice in answer.choices] == [[-0.5], [-0.51]] * 2
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "a"), (1, "a"), (2, "x"), (3, "x")]
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens == 4
    hidden = complete(running, n=1, best_of=2, max_tokens=1)
    assert hidden.choices[0].logprobs is None
    assert len(chat(running, n=2, extra_body={"best_of": 3}).choices) == 2


# --- Grammars.

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
JSON_SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}}}'
SPECS: list[tuple[dict[str, Any], GrammarSpec]] = [
    ({"grammar": {"type": "regex", "value": "a+"}}, GrammarSpec("regex", "a+")),
    ({"response_format": {"type": "json_object"}}, GrammarSpec("json_object", "")),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        GrammarSpec("json_schema", JSON_SCHEMA),
    ),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, GrammarSpec("choice", '["yes","no"]')),
    ({"guided_json": SCHEMA}, GrammarSpec("json_schema", JSON_SCHEMA)),
    ({"guided_regex": "b*"}, GrammarSpec("regex", "b*")),
    ({"guided_choice": ["yes"]}, GrammarSpec("choice", '["yes"]')),
    ({"guided_grammar": "start: /x/"}, GrammarSpec("lark", "start: /x/")),
]


@pytest.mark.parametrize("ask", [chat, complete])
@pytest.mark.parametrize(("body", "spec"), SPECS)
def test_grammars_reach_the_engine_for_every_answer(running: Any, ask: Any, body: Any, spec: GrammarSpec) -> None:
    ask(running, n=2, extra_body=body)
    assert running.engine.grammars[-2:] == [spec, spec]
    ask(running, extra_body=dict.fromkeys(body))
    assert running.engine.grammars[-1] is None


@pytest.mark.parametrize("ask", [chat, complete])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"grammar": "a+"}, "grammar"),
        ({"guided_json": 3}, "guided_json"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"structured_outputs": {"yaml": "a"}}, "structured_outputs.yaml"),
    ],
)
def test_malformed_grammars_are_refused(running: Any, ask: Any, body: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(running, extra_body=body)
    assert caught.value.param == param


def test_a_grammar_and_a_forced_call_are_one_too_many(running: Any) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(openai.BadRequestError, match="tool_choice and guided_regex both"):
        chat(running, tools=tools, tool_choice="required", extra_body={"guided_regex": "a"})


def test_what_keeps_to_a_grammar_is_content(serve: Any, parrot_model: Any) -> None:
    """Even from a model that thinks, whose prompt began the thoughts."""
    running = serve(parrot_model(template_source="<think>"))
    message = chat(running, "x<think>", extra_body={"guided_regex": "x<think>"}).choices[0].message
    assert message.content == "x<think>"
