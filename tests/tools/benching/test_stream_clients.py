from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from mistralrs_onnx.tools.benching.stream_clients import stream, unchunked

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def answering(pieces: Sequence[bytes], num_clients: int) -> Iterator[int]:
    """A server that reads a request to its end, then sends the pieces."""

    def serve(listener: socket.socket) -> None:
        connections = [listener.accept()[0] for _ in range(num_clients)]
        for connection in connections:
            data = b""
            while b"}" not in data:
                data += connection.recv(4096)
            for piece in pieces:
                connection.sendall(piece)
        for connection in connections:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join(30)


def test_each_answer_is_read_to_its_end_however_it_was_cut() -> None:
    pieces = [HEAD[:10], HEAD[10:] + b"5\r\nda", b"ta:\r\n3\r\n \xc3\xa9\r\n", b"0\r\n\r\n"]
    with answering(pieces, 3) as port:
        answers = stream(port, "/v1/completions", [{"prompt": "a"}] * 3)
    assert [answer["text"] for answer in answers] == ["data: é"] * 3
    for answer in answers:
        assert answer["status"] == 200
        assert 0 < answer["first"] <= answer["last"]


def test_an_error_ends_with_its_connection() -> None:
    body = b'{"error": {"code": "queue_full"}}'
    with answering([b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\n\r\n" + body], 1) as port:
        [answer] = stream(port, "/v1/completions", [{"prompt": "a"}])
    assert (answer["status"], answer["text"]) == (429, body.decode())


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"), (b'{"a": 1}', b'{"a": 1}'), (b"", b"")],
)
def test_unchunked(body: bytes, said: bytes) -> None:
    assert unchunked(body) == said
