"""A client of OpenAI's API that only notes when bytes come, so that it does not measure itself; standard library only.

What was said is read when the clock has stopped, by http_answer.
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
import ssl
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

CHUNKED = re.compile(rb"^transfer-encoding:[ \t]*chunked", re.MULTILINE | re.IGNORECASE)
LENGTH = re.compile(rb"^content-length:[ \t]*(\d+)", re.MULTILINE | re.IGNORECASE)
REFUSED = f"[Errno {errno.ECONNREFUSED}]"
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is. `prefix`: what stands before /v1 in its paths."""

    host: str
    port: int
    prefix: str = ""
    is_secure: bool = False
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
    return Target(parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1"), is_secure=is_secure, key=key)


Pieces = list[tuple[float, bytes]]  # seconds from the sending, and what came then


class Exchange(NamedTuple):
    """What came back for a request. `failure`: what went wrong with the connection."""

    pieces: Pieces
    failure: str | None = None


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
    context = certificates() if target.is_secure else None
    pieces: Pieces = []
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


@cache
def certificates() -> ssl.SSLContext:
    """Read once: it takes a while."""
    return ssl.create_default_context()


def _reason(error: OSError) -> str:
    """Without the address, so that equal failures read the same."""
    match error:
        case ConnectionRefusedError():
            return "the connection was refused"
        case ConnectionResetError() | BrokenPipeError():
            return "the connection was reset"
        case _ if REFUSED in str(error):  # by each of several addresses
            return "the connection was refused"
        case _:
            return error.strerror or str(error) or type(error).__name__


async def _receive(reader: asyncio.StreamReader, begun: float, pieces: Pieces) -> None:
    """Until the answer is whole."""
    ending: Ending | None = None
    start = b""  # until the head is whole
    while data := await reader.read(1 << 16):
        pieces.append((perf_counter() - begun, data))
        if ending is not None:
            ending.see(data)
        else:
            start += data
            head, found, body = start.partition(b"\r\n\r\n")
            if not found:
                continue
            ending = Ending(head)
            ending.see(b"\r\n" + body, len(body))
        if ending.is_reached:
            return


class Ending:
    """Knows by the head of an answer how its end looks; without a sign, it is the end of the connection."""

    def __init__(self, head: bytes) -> None:
        self._is_chunked = CHUNKED.search(head) is not None
        length = LENGTH.search(head)
        self._missing = int(length[1]) if length and not self._is_chunked else None
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
