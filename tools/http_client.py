"""A client of OpenAI's API that only notes when bytes come, so that it does not measure itself; standard library only.

What was said is read by `read_answer`, when the clock has stopped.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

CHUNKED, LENGTH = b"transfer-encoding: chunked", b"content-length:"
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is. `prefix`: what stands before /v1 in its paths."""

    host: str
    port: int
    prefix: str
    is_secure: bool
    key: str | None = None

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_url(url: str, key: str | None = None) -> Target:
    """With /v1 at its end or without. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a server: write it like http://127.0.0.1:1234")
    is_secure = parts.scheme == "https"
    port = parts.port or (443 if is_secure else 80)
    return Target(parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1"), is_secure, key)


class Exchange(NamedTuple):
    """One request and the bytes that came back, with the seconds from its sending to each piece.

    `failure`: what went wrong with the connection.
    """

    pieces: list[tuple[float, bytes]]
    failure: str | None = None


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


async def post(target: Target, path: str, body: dict[str, Any]) -> Exchange:
    return await _exchange(target, _head(target, "POST", path), json.dumps(body).encode())


async def get(target: Target, path: str) -> Exchange:
    return await _exchange(target, _head(target, "GET", path), b"")


def _head(target: Target, method: str, path: str) -> str:
    key = "" if target.key is None else f"Authorization: Bearer {target.key}\r\n"
    return (
        f"{method} {target.prefix}{path} HTTP/1.1\r\nHost: {target.authority}\r\n{key}"
        "Connection: close\r\nContent-Type: application/json\r\nAccept: */*\r\n"
    )


async def _exchange(target: Target, head: str, body: bytes) -> Exchange:
    """The clock runs from the sending on, as the connection stands."""
    context = ssl.create_default_context() if target.is_secure else None
    pieces: list[tuple[float, bytes]] = []
    try:
        reader, writer = await asyncio.open_connection(target.host, target.port, ssl=context)
        try:
            begun = perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await _receive(reader, begun, pieces)
        finally:
            writer.close()
    except OSError as error:  # ssl.SSLError is one
        return Exchange(pieces, _reason(error))
    return Exchange(pieces)


def _reason(error: OSError) -> str:
    """Without the address, so that equal failures read the same."""
    match error:
        case ConnectionRefusedError():
            return "the connection was refused"
        case ConnectionResetError() | BrokenPipeError():
            return "the connection was reset"
        case _:
            return error.strerror or str(error) or type(error).__name__


async def _receive(reader: asyncio.StreamReader, begun: float, pieces: list[tuple[float, bytes]]) -> None:
    """Until the answer is whole."""
    ending: Ending | None = None
    start = b""
    while data := await reader.read(1 << 16):
        pieces.append((perf_counter() - begun, data))
        if ending is not None:
            ending.see(data)
        else:
            start += data
            head, found, body = start.partition(b"\r\n\r\n")
            if not found:
                continue
            ending = Ending(head.lower())
            ending.see(b"\r\n" + body, len(body))
        if ending.is_reached:
            return


class Ending:
    """Knows by the head of an answer how its end looks; without a sign, it is the end of the connection."""

    def __init__(self, head: bytes) -> None:
        self._is_chunked = CHUNKED in head
        lengths = [line[len(LENGTH) :] for line in head.split(b"\r\n") if line.startswith(LENGTH)]
        self._missing = int(lengths[0]) if lengths and not self._is_chunked else None
        self._tail = b""

    def see(self, data: bytes, size: int | None = None) -> None:
        self._tail = (self._tail + data)[-len(LAST_CHUNK) :]
        if self._missing is not None:
            self._missing -= len(data) if size is None else size

    @property
    def is_reached(self) -> bool:
        if self._is_chunked:
            return self._tail == LAST_CHUNK
        return self._missing is not None and self._missing <= 0


def read_answer(exchange: Exchange) -> Answer:
    """Of a streamed request."""
    if exchange.failure is not None:
        return Answer(error=exchange.failure)
    status, is_chunked, pieces = _body(exchange.pieces)
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


def _body(pieces: list[tuple[float, bytes]]) -> tuple[int, bool, list[tuple[float, bytes]]]:
    """Status, whether the body is chunked, and its pieces; status 0 of what is no HTTP."""
    start = b""
    for i, (time, data) in enumerate(pieces):
        start += data
        head, found, body = start.partition(b"\r\n\r\n")
        if found:
            words = head.split(b" ", 2)
            status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
            return status, CHUNKED in head.lower(), [(time, body), *pieces[i + 1 :]]
    return 0, False, [(0.0, start)]


def _plain(pieces: list[tuple[float, bytes]], is_chunked: bool) -> Iterator[tuple[float, bytes]]:
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
