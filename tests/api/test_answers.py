"""Responses, whole and in chunks: they say the same."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from tiny_runners import chat, chat_request, complete, tiny_runner, tiny_which

from mistralrs_onnx.answers import ChatCompletionStream
from mistralrs_onnx.responses import ChatCompletionChunkResponse
from mistralrs_onnx.runner import Runner

NO_END = {97: -100.0}


@pytest.fixture(scope="module")
def runner(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRALRS_CACHE", str(folder / "cache"))
        with tiny_runner(tiny_which(tiny_llama, folder)) as runner:
            yield runner


def stream(runner: Runner, **fields: Any) -> ChatCompletionStream:
    chunks = runner.send_chat_completion_request(chat_request(stream=True, **fields))
    assert isinstance(chunks, ChatCompletionStream)
    return chunks


def joined(chunks: list[ChatCompletionChunkResponse], index: int = 0) -> str:
    return "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].index == index)


def test_a_chat_is_answered_in_openais_words(runner: Runner) -> None:
    response = chat(runner)
    answer = response.choices[0]
    assert (answer.index, answer.finish_reason, answer.message.role) == (0, "length", "assistant")
    assert answer.message.content
    assert answer.logprobs is None
    assert (response.object, response.model, response.system_fingerprint) == ("chat.completion", "tiny", "local")
    assert response.id.startswith("chatcmpl-")
    assert abs(response.created - time.time()) < 60
    assert asdict(response)["choices"][0]["message"]["content"] == answer.message.content


def test_usage_counts_tokens_and_time(runner: Runner) -> None:
    usage = chat(runner, n_choices=2).usage
    assert (usage.completion_tokens, usage.total_tokens) == (24, usage.prompt_tokens + 24)
    assert all(math.isfinite(value) and value > 0 for value in asdict(usage).values())
    assert usage.total_time_sec == pytest.approx(usage.total_prompt_time_sec + usage.total_completion_time_sec)
    assert usage.avg_compl_tok_per_sec == pytest.approx(24 / usage.total_completion_time_sec)


def test_an_answer_of_one_token_takes_no_time_to_complete(runner: Runner) -> None:
    assert all(math.isfinite(value) for value in asdict(chat(runner, max_tokens=1).usage).values())


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.0}, {"stop_seqs": ["zzzz"]}])
def test_a_stream_says_what_is_said_at_once(runner: Runner, fields: dict[str, Any]) -> None:
    fields = {"logprobs": True, "top_logprobs": 2, **fields}
    whole, chunks = chat(runner, **fields), list(stream(runner, **fields))
    assert joined(chunks) == whole.choices[0].message.content
    told = [each for chunk in chunks if chunk.choices[0].logprobs for each in chunk.choices[0].logprobs.content]
    assert whole.choices[0].logprobs is not None
    assert tuple(told) == whole.choices[0].logprobs.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_streams_of_several_answers(runner: Runner) -> None:
    fields = {"n_choices": 3}
    chunks = list(stream(runner, **fields))
    assert [joined(chunks, i) for i in range(3)] == [each.message.content for each in chat(runner, **fields).choices]
    assert sum(chunk.usage is not None for chunk in chunks) == 1


def test_log_probabilities_are_natural_and_sorted(runner: Runner) -> None:
    logprobs = chat(runner, logprobs=True, top_logprobs=20, temperature=0.0).choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.content) == 12
    for each in logprobs.content:
        top = [other.logprob for other in each.top_logprobs]
        assert top == sorted(top, reverse=True)
        assert each.logprob == top[0]  # it is greedy
        assert 0 < sum(map(math.exp, top)) <= 1.0001
        assert bytes(each.bytes).decode() == each.token


@pytest.mark.parametrize("end", ["close", "with", "forget"])
def test_a_stream_that_is_closed_frees_its_slot(runner: Runner, end: str) -> None:
    chunks = stream(runner, max_tokens=None, logit_bias=NO_END)
    next(chunks)
    (request,) = chunks._drawing._requests
    assert request.finish_reason is None
    if end == "close":
        chunks.close()
    elif end == "with":
        with chunks:
            pass
    else:
        del chunks
    deadline = time.monotonic() + 5
    while request.finish_reason is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert request.finish_reason == "cancelled"
    assert request.slot is None


def test_a_closed_stream_has_no_more_chunks(runner: Runner) -> None:
    chunks = stream(runner)
    next(chunks)
    chunks.close()
    assert list(chunks) == []


def test_a_continuation(runner: Runner) -> None:
    response = complete(runner)
    assert (response.object, response.choices[0].finish_reason) == ("text_completion", "length")
    assert response.id.startswith("cmpl-")
    assert response.usage.prompt_tokens == 2  # ab is one token
    text = response.choices[0].text
    assert complete(runner, echo_prompt=True, suffix="...").choices[0].text == f"abc{text}..."
