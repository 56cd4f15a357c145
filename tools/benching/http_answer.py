"""Reads what came over a connection: events, texts and the moments at which they came, or why there were none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .http_client import CHUNKED, Exchange, Pieces


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request. `times`: seconds from its sending to each piece of text."""

    times: tuple[float, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None

    @property
    def tpot(self) -> float | None:
        """Seconds between tokens after the first one, the mean."""
        if self.output_tokens < 2:
            return None
        return (self.times[-1] - self.times[0]) / (self.output_tokens - 1)


def read_answer(exchange: Exchange) -> Answer:
    """Of a streamed request."""
    if exchange.failure is not None:
        return Answer(error=exchange.failure)
    try:
        return _read_stream(exchange.pieces)
    except ValueError as error:
        return Answer(error=f"no stream of events: {error}")


def _read_stream(received: Pieces) -> Answer:
    """Raises ValueError."""
    status, is_chunked, pieces = _body(received)
    if status != 200:
        return Answer(error=refusal(status, b"".join(data for _, data in _plain(pieces, is_chunked))))
    stream = Stream()
    for time, data in _plain(pieces, is_chunked):
        stream.feed(time, data)
    return stream.answer()


def read_json(exchange: Exchange) -> Any:
    """The body of an answer. Raises ValueError for whatever is no JSON with status 200."""
    if exchange.failure is not None:
        raise ValueError(exchange.failure)
    status, is_chunked, pieces = _body(exchange.pieces)
    body = b"".join(data for _, data in _plain(pieces, is_chunked))
    if status != 200:
        raise ValueError(refusal(status, body))
    return json.loads(body)


def _body(pieces: Pieces) -> tuple[int, bool, Pieces]:
    """Status, whether the body is chunked, and its pieces; status 0 of what is no HTTP."""
    start = b""
    for i, (time, data) in enumerate(pieces):
        start += data
        head, found, body = start.partition(b"\r\n\r\n")
        if found:
            words = head.split(b" ", 2)
            status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
            return status, CHUNKED.search(head) is not None, [(time, body), *pieces[i + 1 :]]
    return 0, False, [(0.0, start)]


def _plain(pieces: Pieces, is_chunked: bool) -> Iterator[tuple[float, bytes]]:
    """Pieces without the lengths of chunks between."""
    if not is_chunked:
        yield from pieces
        return
    waiting = b""
    for time, data in pieces:
        waiting += data
        while (end := waiting.find(b"\r\n")) >= 0:
            size = int(waiting[:end].split(b";")[0] or b"0", 16)
            if len(waiting) < end + size + 4:
                break
            yield time, waiting[end + 2 : end + 2 + size]
            waiting = waiting[end + size + 4 :]


def refusal(status: int, body: bytes) -> str:
    """In one line, from OpenAI's form of errors or from the body itself."""
    text = body.decode(errors="replace").strip()
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if isinstance(said, dict):
        inner = said.get("error", said)
        text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    words = " ".join(text.split())[:200] or "without a word"
    return f"{status}: {words}" if status else f"no HTTP: {words}"


class Stream:
    """Server-sent events, and when they came."""

    def __init__(self) -> None:
        self._waiting = b""
        self._times: list[float] = []
        self._others: list[float] = []  # of events with choices, but no text
        self._usage: dict[str, Any] = {}
        self._error: str | None = None
        self._is_whole = False

    def feed(self, time: float, data: bytes) -> None:
        *lines, self._waiting = (self._waiting + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(time, line[5:].strip())

    def _event(self, time: float, data: bytes) -> None:
        if data == b"[DONE]":
            self._is_whole = True
            return
        event = json.loads(data)
        if "error" in event:
            self._error = refusal(200, data)
        self._usage = event.get("usage") or self._usage
        for choice in event.get("choices") or ():
            (self._times if has_text(choice) else self._others).append(time)
            self._is_whole |= choice.get("finish_reason") is not None

    def answer(self) -> Answer:
        times = tuple(self._times or self._others)
        if self._error is not None:
            return Answer(error=self._error)
        if not self._is_whole or not times:
            return Answer(error="the stream broke off" if times else "200: nothing was streamed")
        output_tokens = self._usage.get("completion_tokens", len(times))
        return Answer(times, self._usage.get("prompt_tokens", 0), output_tokens)


def has_text(choice: dict[str, Any]) -> bool:
    """Of /v1/completions or of /v1/chat/completions."""
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or any(delta.get(key) for key in ("content", "reasoning_content", "tool_calls")))
