from __future__ import annotations

import json
from typing import Any

import pytest

from mistralrs_onnx.tools.benching.http_answer import Answer, read_answer, read_json, refusal
from mistralrs_onnx.tools.benching.http_client import Exchange

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**said: Any) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def text(said: str, finish: str | None = None) -> bytes:
    return event(choices=[{"text": said, "finish_reason": finish}], usage=None)


USAGE = event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 5})
DONE = b"data: [DONE]\n\n"


def test_moments_are_those_of_texts_and_counts_are_the_servers() -> None:
    two = chunk(text("a") + text("b"))
    pieces = [
        (0.10, CHUNKED + chunk(event(choices=[{"text": "", "finish_reason": None}]))),
        (0.20, two[:30]),
        (0.30, two[30:]),
        (0.50, chunk(text("c", "length"))),
        (0.60, chunk(USAGE) + chunk(DONE) + b"0\r\n\r\n"),
    ]
    answer = read_answer(Exchange(pieces))
    assert answer == Answer((0.30, 0.30, 0.50), 9, 5)
    assert answer.tpot == pytest.approx(0.20 / 4)


def test_a_body_without_chunks_in_any_cut() -> None:
    whole = b"HTTP/1.0 200 OK\r\n\r\n" + text("a") + text("b", "stop")
    pieces = [(i / 1000, whole[i : i + 1]) for i in range(len(whole))]
    answer = read_answer(Exchange(pieces))
    assert len(answer.times) == answer.output_tokens == 2  # nobody counted them: texts are tokens
    assert answer.times[0] < answer.times[1] <= len(whole) / 1000


@pytest.mark.parametrize(
    "delta", [{"content": "a"}, {"reasoning_content": "a"}, {"tool_calls": [{"function": {"arguments": "{"}}]}]
)
def test_every_delta_of_a_chat_is_text(delta: dict[str, Any]) -> None:
    role, said = ({"delta": each, "finish_reason": None} for each in ({"role": "assistant", "content": ""}, delta))
    pieces = [(0.1, CHUNKED + chunk(event(choices=[role]))), (0.2, chunk(event(choices=[said]))), (0.3, chunk(DONE))]
    assert read_answer(Exchange(pieces)).times == (0.2,)


def test_one_token_has_no_time_per_later_token() -> None:
    assert Answer((0.1,), 3, 1).tpot is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (chunk(text("a")), "the stream broke off"),
        (chunk(DONE), "200: nothing was streamed"),
        (chunk(event(error={"message": "out of\nmemory"})), "200: out of memory"),
        (chunk(b"data: {oops}\n\n"), "no stream of events"),
        (b"zz\r\n", "no stream of events"),
    ],
)
def test_what_goes_wrong_after_a_good_status(body: bytes, error: str) -> None:
    answer = read_answer(Exchange([(0.1, CHUNKED + body)]))
    assert answer.error is not None
    assert answer.error.startswith(error)


def test_refusals_and_failures_are_one_line() -> None:
    body = b"HTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b'{"error": {"message": "full"}}')
    assert read_answer(Exchange([(0.1, body)])) == Answer(error="429: full")
    assert read_answer(Exchange([], "the connection was reset")) == Answer(error="the connection was reset")
    assert read_answer(Exchange([(0.1, b"SSH-2.0 hello\r\n")])).error == "no HTTP: SSH-2.0 hello"
    assert refusal(500, b"<html>\n oh</html>") == "500: <html> oh</html>"
    assert refusal(404, b'{"detail": "Not Found"}') == "404: {'detail': 'Not Found'}"
    assert refusal(502, b"") == "502: without a word"


def test_json_or_why_not() -> None:
    assert read_json(Exchange([(0.1, b"HTTP/1.1 200 OK\r\n\r\n[1]")])) == [1]
    with pytest.raises(ValueError, match="404: gone"):
        read_json(Exchange([(0.1, b"HTTP/1.1 404 No\r\n\r\ngone")]))
    with pytest.raises(ValueError, match="refused"):
        read_json(Exchange([], "refused"))
