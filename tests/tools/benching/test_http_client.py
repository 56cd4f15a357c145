from __future__ import annotations

import asyncio
import json

import pytest

from mistralrs_onnx.tools.benching.http_client import Ending, Exchange, Target, get, parse_url, post

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:1234", Target("127.0.0.1", 1234)),
        ("http://host:8000/v1/", Target("host", 8000)),
        ("https://host/openai/v1", Target("host", 443, "/openai", is_secure=True)),
        ("http://[::1]:80", Target("::1", 80)),
    ],
)
def test_addresses_with_v1_and_without(url: str, target: Target) -> None:
    assert parse_url(url) == target


@pytest.mark.parametrize("url", ["localhost:1234", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"http://127.0.0.1:1234|Port"):
        parse_url(url)


def answered(pieces: list[bytes], stays_open: bool = True, key: str | None = None) -> tuple[Exchange, bytes]:
    """What a client gets from a server that sends pieces, and what it had sent."""
    heard = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n")
        heard += await reader.readexactly(int(heard.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)
        if stays_open:
            await reader.read()
        writer.close()

    async def talk() -> Exchange:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.wait_for(post(Target("127.0.0.1", port, "/a", key=key), "/v1/x", {"n": 1}), 10)

    return asyncio.run(talk()), heard


@pytest.mark.parametrize(
    ("pieces", "stays_open"),
    [
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n", b"\r\n"], True),
        ([HEAD + b"transfer-encoding:chunked\r\n", b"\r\n0\r\n\r\n"], True),
        ([HEAD + b"Content-Length: 4\r\n\r", b"\nab", b"cd"], True),
        ([HEAD + b"Content-Length: 0\r\n\r\n"], True),
        ([HEAD + b"\r\nab", b"cd"], False),
    ],
)
def test_an_answer_ends_as_its_head_says(pieces: list[bytes], stays_open: bool) -> None:
    exchange, _ = answered(pieces, stays_open)
    assert b"".join(data for _, data in exchange.pieces) == b"".join(pieces)
    assert exchange.failure is None
    times = [time for time, _ in exchange.pieces]
    assert times == sorted(times)
    assert times[0] > 0


def test_a_chunk_that_ends_like_the_last_one_is_not_the_end_of_a_sized_body() -> None:
    ending = Ending(HEAD + b"Content-Length: 20")
    ending.see(b"\r\n" + b"ab\r\n0\r\n\r\n", 9)
    assert not ending.is_reached
    ending.see(b"x" * 11)
    assert ending.is_reached


def test_what_is_sent() -> None:
    _, heard = answered([HEAD + b"Content-Length: 0\r\n\r\n"], key="secret")
    head, _, body = heard.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /a/v1/x HTTP/1.1"
    assert {"Authorization: Bearer secret", "Connection: close", "Content-Type: application/json"} <= set(lines)
    assert json.loads(body) == {"n": 1}


def test_nobody_there() -> None:
    exchange = asyncio.run(get(Target("localhost", 9), "/v1/models"))
    assert exchange == Exchange([], "the connection was refused")
