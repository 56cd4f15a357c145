"""Prompts that are too long, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError


@pytest.fixture
def told(serve: Any, parrot_model: Any) -> Any:
    """What a server whose context holds 16 tokens read of a prompt."""

    def read(prompt: str, *, server: bool = False, chat: bool = False, max_tokens: int = 4, **fields: Any) -> Any:
        running = serve(parrot_model(context_length=16, truncate_sequence=server))
        options: Any = {"model": "default", "max_tokens": max_tokens, "extra_body": fields}
        if chat:
            answer = running.client().chat.completions.create(messages=[{"role": "user", "content": prompt}], **options)
        else:
            answer = running.client().completions.create(prompt=prompt, **options)
        request = running.engine.submitted[-1]
        assert answer.usage.prompt_tokens == len(request.text)
        return request.text

    return read


LONG = "".join(chr(97 + i % 26) for i in range(40))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"truncate_sequence": True}, LONG[-12:]),
        ({"truncate_prompt_tokens": -1}, LONG[-12:]),
        ({"truncate_prompt_tokens": 3}, LONG[-3:]),
        ({"truncate_prompt_tokens": 16, "truncate_sequence": True}, LONG[-12:]),
    ],
)
def test_the_end_is_read(told: Any, chat: bool, fields: dict[str, Any], expected: str) -> None:
    assert told(LONG, chat=chat, **fields) == expected


def test_the_server_cuts_what_requests_do_not_speak_of(told: Any) -> None:
    assert told(LONG, server=True) == LONG[-12:]
    assert told(LONG, server=True, truncate_sequence=False) == LONG
    assert told(LONG) == LONG  # which a real engine refuses


def test_short_prompts_are_whole(told: Any) -> None:
    assert told("abc", server=True, truncate_prompt_tokens=9) == "abc"
    assert told("abc", truncate_prompt_tokens=None, truncate_sequence=None) == "abc"


@pytest.mark.parametrize(
    ("value", "message"),
    [(17, "at most the context of 16 tokens, got 17"), (0, "at least 1"), (-2, "-1"), (True, "valid integer")],
)
def test_numbers_that_mean_nothing_are_refused(told: Any, value: Any, message: str) -> None:
    with pytest.raises(BadRequestError, match=message) as caught:
        told("abc", truncate_prompt_tokens=value)
    assert caught.value.param == "truncate_prompt_tokens"


def test_what_is_repeated_is_what_was_read(serve: Any, parrot_model: Any) -> None:
    running = serve(parrot_model(context_length=16))
    fields = {"truncate_sequence": True}
    answer = running.client().completions.create(
        model="default", prompt=LONG, max_tokens=4, echo=True, logprobs=1, extra_body=fields
    )
    assert answer.choices[0].text.startswith(LONG[-12:])
    assert answer.choices[0].logprobs.tokens[:12] == list(LONG[-12:])
