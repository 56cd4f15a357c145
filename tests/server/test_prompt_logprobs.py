"""Scores of prompts beside answers: where vLLM has them in the body."""

from __future__ import annotations

from typing import Any

ASKED = {"model": "default", "max_tokens": 2, "extra_body": {"prompt_logprobs": 1}}


def test_a_completion_has_them_in_each_choice(running: Any) -> None:
    answer = running.client().completions.create(prompt=["ab", "xyz"], n=2, **ASKED)
    entry = {"logprob": -0.5, "rank": 0, "decoded_token": "b"}
    assert [len(choice.prompt_logprobs) for choice in answer.choices] == [2, 2, 3, 3]
    assert answer.choices[0].prompt_logprobs == [None, {"98": entry}]
    assert "prompt_logprobs" not in answer.model_extra


def test_a_chat_has_them_beside_its_choices(running: Any) -> None:
    answer = running.client().chat.completions.create(messages=[{"role": "user", "content": "ab"}], n=2, **ASKED)
    assert [each and list(each) for each in answer.prompt_logprobs] == [None, ["98"]]
    assert all("prompt_logprobs" not in choice.model_extra for choice in answer.choices)


def test_who_does_not_ask_gets_none(running: Any) -> None:
    answer = running.client().completions.create(model="default", prompt="ab", max_tokens=2)
    assert "prompt_logprobs" not in answer.choices[0].model_extra
