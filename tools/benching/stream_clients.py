"""Streaming HTTP clients on raw sockets, in a process of their own so that the server is not disturbed.

Reads {"port", "path", "bodies"} as JSON from standard input; all requests are sent at once. Writes one object for
each to standard output: seconds from the sending to its first and its last byte, and the answer. They only wait for
bytes and look for the end of the stream; what was said is read when the clock has stopped. Standard library only.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

END = b"\r\n0\r\n\r\n"  # of a chunked body
GUARD = 600.0  # seconds without a byte until it gives up


@dataclass
class Client:
    """One connection and what came over it."""

    socket: socket.socket
    request: bytes
    received: bytearray = field(default_factory=bytearray)
    first: float = 0.0
    last: float = 0.0

    def receive(self) -> bool:
        """Whether this was the end."""
        data = self.socket.recv(1 << 16)
        self.last = perf_counter()
        self.first = self.first or self.last
        self.received += data
        return not data or self.received.endswith(END)

    def report(self, begun: float) -> dict[str, Any]:
        head, _, body = bytes(self.received).partition(b"\r\n\r\n")
        answer = {"status": int(head.split(b" ", 2)[1]), "text": unchunked(body).decode()}
        return {"first": self.first - begun, "last": self.last - begun, **answer}


def unchunked(body: bytes) -> bytes:
    """What a chunked body says; one that is not chunked begins with something else than a length, and is whole."""
    pieces = []
    while body:
        length, _, rest = body.partition(b"\r\n")
        if not rest or length.strip(b"0123456789abcdefABCDEF"):
            return body
        pieces.append(rest[: int(length, 16)])
        body = rest[int(length, 16) + 2 :]
    return b"".join(pieces)


def post(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def stream(port: int, path: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All answers, in the order of the bodies."""
    clients = [Client(socket.create_connection(("127.0.0.1", port)), post(path, body)) for body in bodies]
    with selectors.DefaultSelector() as selector:
        begun = perf_counter()
        for client in clients:
            client.socket.sendall(client.request)
            client.socket.settimeout(0)
            selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map():
            wait(selector)
    for client in clients:
        client.socket.close()
    return [client.report(begun) for client in clients]


def wait(selector: selectors.BaseSelector) -> None:
    ready = selector.select(GUARD)
    if not ready:
        raise TimeoutError(f"the server was silent for {GUARD:.0f} s")
    for key, _ in ready:
        if key.data.receive():
            selector.unregister(key.fileobj)


if __name__ == "__main__":
    job = json.load(sys.stdin)
    json.dump(stream(job["port"], job["path"], job["bodies"]), sys.stdout)
