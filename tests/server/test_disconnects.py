"""Clients that leave, that dawdle, that wait: none costs another anything, and nothing of them remains."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil
import pytest

from mistralrs_onnx.server.app import Limits

GUARD = 20.0


def request(content: str = "ahoy", **options: Any) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": content}], **options}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def connect(running: Any, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=GUARD)
    connection.sendall(data)
    return connection


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def read_chunks(connection: socket.socket) -> list[bytes]:
    """The chunks of a chunked response."""
    file = connection.makefile("rb")
    assert b"transfer-encoding: chunked\r\n" in list(iter(file.readline, b"\r\n"))
    chunks = []
    while size := int(file.readline(), 16):
        chunks.append(file.read(size))
        assert file.read(2) == b"\r\n"
    return chunks


def texts(chunks: list[bytes]) -> list[str]:
    events = [line[6:] for line in b"".join(chunks).split(b"\n\n") if line.startswith(b"data: {")]
    return [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events]


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_token_frees_the_request(running: Any, stream: bool) -> None:
    running.engine.go.clear()
    try:
        connection = connect(running, request(stream=stream))
        wait_for(lambda: running.engine.running)
        connection.close()
        running.wait_idle()
    finally:
        running.engine.go.set()


def test_leaving_in_the_middle_frees_the_request(running: Any) -> None:
    connection = connect(running, request(stream=True, max_tokens=10**6))
    assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    connection.close()
    running.wait_idle()


def test_leaving_after_a_long_prompt_is_noticed(running: Any) -> None:
    connection = connect(running, request("x" * 300_000, max_tokens=10**6))
    wait_for(lambda: running.engine.running)
    connection.close()
    running.wait_idle()


def test_all_choices_of_a_client_that_left_are_freed(running: Any) -> None:
    connection = connect(running, request(n=8, max_tokens=10**6))
    wait_for(lambda: len(running.engine.running) == 8)
    connection.close()
    running.wait_idle()


def test_a_stream_says_that_it_is_alive_while_it_waits(serve: Any) -> None:
    running = serve(limits=Limits(keep_alive=0.02))
    running.engine.go.clear()
    connection = connect(running, request(stream=True))
    received = b""
    while received.count(b": keep-alive\n\n") < 3:
        received += connection.recv(1000)
    assert b"data: " not in received.partition(b"\r\n\r\n")[2].replace(b'data: {"id"', b"", 1)
    running.engine.go.set()
    assert connection.makefile("rb").read().endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    connection.close()


def test_every_piece_of_a_stream_is_whole_events_of_whole_characters(running: Any) -> None:
    text = "日本語 🦜 é \N{COMBINING ACUTE ACCENT}" * 5
    with connect(running, request(text, stream=True)) as connection:
        chunks = read_chunks(connection)
    assert all(chunk.decode().endswith("\n\n") for chunk in chunks)
    assert "".join(texts(chunks)) == text
    assert chunks[-1].endswith(b"data: [DONE]\n\n")


def test_a_slow_reader_gets_all_in_fewer_pieces_and_stops_nobody(serve: Any, parrot: Any, parrot_model: Any) -> None:
    running = serve(parrot_model(parrot(width=20_000)))
    with connect(running, request("z" * 1000, stream=True)) as slow:
        wait_for(lambda: running.engine.running)
        with connect(running, request(stream=True)) as other:
            assert "".join(texts(read_chunks(other))) == "".join(letter * 20_000 for letter in "ahoy")
        running.wait_idle()  # the engine is done with it before it has read a byte
        received = texts(read_chunks(slow))
    assert "".join(received) == "z" * 20_000_000
    assert len(received) < 1000


def test_nothing_remains_of_many_clients_that_leave_at_random_moments(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve()
    process = psutil.Process()
    leave_all(running, range(40))  # threads that start on demand have started then
    before = (process.num_fds(), threading.active_count())
    leave_all(running, range(40, 240))
    wait_for(lambda: process.num_fds() <= before[0])
    wait_for(lambda: threading.active_count() <= before[1])
    with connect(running, request()) as connection:
        assert b"ahoy" in connection.makefile("rb").read()
    assert not caplog.records


def leave_all(running: Any, seeds: range) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: leave_sometime(running, random.Random(seed)), seeds))
    running.wait_idle()
    wait_for(lambda: running.num_tasks() == 1)


def leave_sometime(running: Any, rng: random.Random) -> None:
    data = request(stream=rng.random() < 0.5, n=rng.choice([1, 3]), max_tokens=rng.choice([1, 20, 10**6]))
    moment = rng.choice(["while sending", "after sending", "while reading"])
    if moment == "while sending":
        data = data[: rng.randrange(len(data))]
    with connect(running, data) as connection:
        connection.settimeout(rng.random() * 0.02)
        if moment == "while reading":
            with suppress(TimeoutError):
                connection.recv(rng.randrange(1, 2000))
