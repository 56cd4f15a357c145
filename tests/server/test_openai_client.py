"""The official client talks to us: answers, streams, lists, typed errors."""

from __future__ import annotations

from typing import Any

import openai
import pytest


def ask(running: Any, content: Any = "ahoy", **options: Any) -> Any:
    messages = [{"role": "system", "content": "be a parrot"}, {"role": "user", "content": content}]
    return running.client().chat.completions.create(model="parrot", messages=messages, **options)


def test_chat(running: Any) -> None:
    answer = ask(running)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "ahoy"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens == 4
    assert answer.usage.total_tokens == 8
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_content_may_be_parts_of_text(running: Any) -> None:
    answer = ask(running, [{"type": "text", "text": "ah"}, {"type": "text", "text": "oy"}])
    assert answer.choices[0].message.content == "ahoy"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_tokens(running: Any, name: str) -> None:
    answer = ask(running, **{name: 2})
    assert answer.choices[0].message.content == "ah"
    assert answer.choices[0].finish_reason == "length"


def test_streamed_chat(running: Any) -> None:
    chunks = list(ask(running, "grüße 🦜", stream=True))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "grüße 🦜"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"


def test_streamed_usage_comes_last_and_only_when_asked_for(running: Any) -> None:
    chunks = list(ask(running, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in ask(running, stream=True))


def test_several_choices(running: Any) -> None:
    answer = ask(running, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"ahoy"}
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 12)


def test_several_streamed_choices(running: Any) -> None:
    texts = ["", ""]
    for chunk in ask(running, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["ahoy", "ahoy"]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("abc", ["abc"]),
        (["abc", "def"], ["abc", "def"]),
        ([97, 98], ["ab"]),
        ([[97, 98], [99]], ["ab", "c"]),
    ],
)
def test_completions_of_every_form_of_prompt(running: Any, prompt: Any, texts: list[str]) -> None:
    answer = running.client().completions.create(model="default", prompt=prompt, max_tokens=len(texts[0]))
    assert answer.object == "text_completion"
    assert [choice.text[: len(text)] for choice, text in zip(answer.choices, texts, strict=True)] == texts


def test_completions_stop_after_16_tokens_unless_told(running: Any) -> None:
    answer = running.client().completions.create(model="parrot", prompt="a")
    assert answer.choices[0].text == "a" * 16
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("prompt", ["ab", [97, 98]])
def test_echo_puts_the_prompt_before_the_answer(running: Any, prompt: Any) -> None:
    create = running.client().completions.create
    options: dict[str, Any] = {"model": "parrot", "prompt": prompt, "max_tokens": 3, "echo": True}
    assert create(**options).choices[0].text == "ababa"
    assert "".join(chunk.choices[0].text for chunk in create(**options, stream=True)) == "ababa"


def test_models(running: Any) -> None:
    models = running.client().models
    assert [model.id for model in models.list()] == ["parrot"]
    assert models.retrieve("parrot").max_model_len == 8192
    with pytest.raises(openai.NotFoundError):
        models.retrieve("owl")


def test_an_unknown_model_is_not_found(running: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="parrot") as caught:
        running.client().chat.completions.create(model="owl", messages=[{"role": "user", "content": "?"}])
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"content": [{"type": "image_url", "image_url": {"url": "http://localhost"}}]}, "messages.1.content"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"extra_body": {"functions": [{"name": "f"}]}}, "functions"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"logit_bias": {"one": 2}}, "logit_bias"),
        ({"logit_bias": {"1": 200}}, "logit_bias"),
        ({"max_tokens": 2, "extra_body": {"min_tokens": 3}}, "min_tokens"),
        ({"extra_body": {"typical_p": 0}}, "typical_p"),
        ({"extra_body": {"dry_base": 0.5}}, "dry_base"),
        ({"extra_body": {"bad_words": [""]}}, "bad_words.0"),
        ({"extra_body": {"guided_regex": "a", "guided_choice": ["b"]}}, "guided_choice"),
        ({"stream_options": {"include_usage": "yes"}, "stream": True}, "stream_options.include_usage"),
    ],
)
def test_what_cannot_be_honoured_is_a_bad_request(running: Any, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(running, **options)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_neutral_values_and_nulls_are_accepted(running: Any) -> None:
    extra = {"tools": [], "logit_bias": None, "suffix": None, "min_tokens": 0, "top_k": -1, "stop": None, "odd": 1}
    answer = ask(
        running, n=1, logprobs=False, temperature=None, response_format={"type": "text"}, user="me", extra_body=extra
    )
    assert answer.choices[0].message.content == "ahoy"


def test_a_cache_salt_is_the_scope_of_the_prefix_cache(running: Any) -> None:
    ask(running, extra_body={"cache_salt": "mine"})
    ask(running)
    assert running.engine.scopes[-2:] == [("mine",), ()]


def test_a_full_queue_is_a_rate_limit_with_a_time_to_wait(serve: Any, parrot: Any, parrot_model: Any) -> None:
    running = serve(parrot_model(parrot(max_requests=2)))
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as caught:
            ask(running, n=3, stream=stream)
        assert caught.value.response.headers["retry-after"] == "1"
        assert caught.value.code == "queue_full"
        assert running.engine.running == []


def test_a_failure_before_the_first_token_has_its_status(running: Any) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="no such thing"):
            ask(running, "💣", stream=stream)


def test_a_failure_in_the_middle_of_a_stream_is_an_event(serve: Any) -> None:
    running = serve()
    stream = ask(running, "ah🛑💣oy", stream=True)
    text = ""
    while "🛑" not in text:
        text += next(stream).choices[0].delta.content
    running.engine.go.set()
    with pytest.raises(openai.APIError, match="no such thing"):
        next(stream)
    assert text == "ah🛑"
    running.wait_idle()
