"""The part of the Hugging Face Hub that downloads use, on this machine: one repository, and a store for large files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Seen(NamedTuple):
    """A request. `server`: "hub" or "store"; `token`: what it carried; `sent`: bytes of the answer's body."""

    server: str
    method: str
    path: str
    token: str | None
    range: str | None
    sent: int


class StubHub:
    """A repository with `files`. Set `gated`, `token`, `cut` or `status` to make it difficult.

    `token`: the only one that opens it. `cut`: bytes after which the next body of a large file breaks off.
    """

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        self.name = name
        self.files = files
        self.token: str | None = None
        self.gated = False
        self.cut: int | None = None
        self.status: int | None = None
        self.damaged: set[str] = set()
        self.seen: list[Seen] = []
        self.endpoint = ""
        self.store = ""

    @contextmanager
    def serving(self) -> Iterator[StubHub]:
        """Two servers on loopback: the hub, and at another origin the store that it sends large files from."""
        servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, kind)) for kind in ("hub", "store")]
        self.endpoint, self.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
        threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(servers, threads, strict=True):
                server.shutdown()
                server.server_close()
                thread.join()

    def fetched(self) -> list[str]:
        """Names of files whose bytes were asked for, in order."""
        paths = [seen.path for seen in self.seen if seen.method == "GET" and seen.server == "hub"]
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in paths if "/resolve/" in path]

    def sent(self, name: str) -> int:
        """Bytes of a file that went out."""
        return sum(seen.sent for seen in self.seen if seen.path.endswith(f"/{name}") and seen.method == "GET")

    def is_large(self, name: str) -> bool:
        return name.endswith((".safetensors", ".gguf", ".bin"))

    def etag(self, name: str) -> str:
        content = self.files[name]
        if self.is_large(name):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def info(self) -> bytes:
        siblings = [self._sibling(name) for name in self.files]
        return json.dumps({"id": self.name, "sha": COMMIT, "siblings": siblings}).encode()

    def _sibling(self, name: str) -> dict[str, object]:
        size = len(self.files[name])
        plain = {"rfilename": name, "size": size, "blobId": "f" * 40 if self.is_large(name) else self.etag(name)}
        return plain | (
            {"lfs": {"sha256": self.etag(name), "size": size, "pointerSize": 130}} if self.is_large(name) else {}
        )


def _handler(stub: StubHub, kind: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._route()

        def do_GET(self) -> None:
            self._route()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        @property
        def token(self) -> str | None:
            header = self.headers.get("Authorization")
            return None if header is None else header.removeprefix("Bearer ")

        def _route(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if kind == "store":
                self._content(path.removeprefix("/"))
            elif stub.status is not None:
                self._fail(stub.status, "")
            elif match := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
                self._checked(match[1], match[2], None)
            elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
                self._checked(match[1], match[2], match[3])
            else:
                self._fail(404, "")

        def _checked(self, name: str, revision: str | None, file: str | None) -> None:
            if name != stub.name or (stub.token and not stub.gated and self.token != stub.token):
                self._fail(404 if self.token else 401, "RepoNotFound")
            elif revision not in (None, "main", COMMIT):
                self._fail(404, "RevisionNotFound")
            elif file is None:
                self._send(200, stub.info(), {"Content-Type": "application/json"})
            elif file not in stub.files:
                self._fail(404, "EntryNotFound")
            elif stub.gated and self.token != stub.token:
                self._fail(403 if self.token else 401, "GatedRepo")
            elif stub.is_large(file):
                linked = {"X-Linked-Etag": f'"{stub.etag(file)}"', "X-Linked-Size": str(len(stub.files[file]))}
                self._send(302, b"", linked | {"X-Repo-Commit": COMMIT, "Location": f"{stub.store}/{file}"})
            else:
                self._content(file)

        def _content(self, name: str) -> None:
            content = stub.files[name] if name not in stub.damaged else b"?" * len(stub.files[name])
            headers = {"ETag": f'"{stub.etag(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(match[1]) if match else 0
            if match:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cut = stub.cut if stub.is_large(name) and self.command == "GET" else None
            self._send(206 if match else 200, content[start:], headers, cut)

        def _fail(self, status: int, code: str) -> None:
            self._send(status, b"", {"X-Error-Code": code} if code else {})

        def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            part = b"" if self.command == "HEAD" else body[:cut]
            path = unquote(urlsplit(self.path).path)
            stub.seen.append(Seen(kind, self.command, path, self.token, self.headers.get("Range"), len(part)))
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(part)
            if cut is not None and cut < len(body):
                stub.cut = None
                self.close_connection = True

    return Handler
