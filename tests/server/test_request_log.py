"""Requests and responses in a file: what is written of them, and what happens when the disk does not take it."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import stat
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, BadRequestError

from mistralrs_onnx.server import request_log
from mistralrs_onnx.server.lifecycle import Server, ServerOptions
from mistralrs_onnx.server.request_log import LogFileError, RequestLog

ENTRY = re.compile(r"(Request|Response|Error response|Missing) at (.*?\d\d:\d\d): (.*)")
KEY = "sk-very-secret"


def entries(path: Path) -> list[tuple[str, str]]:
    """Each with its kind; a line of time, an empty line."""
    found = []
    for part in path.read_text().removesuffix("\n\n").split("\n\n"):
        match = ENTRY.fullmatch(part)
        assert match, part
        assert datetime.fromisoformat(match[2]).tzinfo is not None
        found.append((match[1], match[3]))
    return found


def read(path: Path) -> list[tuple[str, Any]]:
    return [(kind, json.loads(text)) for kind, text in entries(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests.log"


def stopped(running: Any) -> None:
    running.server.stop()
    running.thread.join(60)


def test_a_request_and_its_answer(serve: Any, path: Path) -> None:
    running = serve(log_file=path)
    client = running.client().with_options(api_key=KEY)
    answer = client.completions.create(model="default", prompt="hello\n", max_tokens=4)
    client.models.list()  # is no request for anything
    stopped(running)
    request, response = read(path)
    assert request == ("Request", {"model": "default", "prompt": "hello\n", "max_tokens": 4})
    assert response[0] == "Response"
    assert (response[1]["id"], response[1]["choices"][0]["text"]) == (answer.id, "hell")
    assert KEY not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_chunk_of_a_stream(serve: Any, path: Path) -> None:
    running = serve(log_file=path)
    chunks = list(running.client().completions.create(model="default", prompt="abcdef", max_tokens=6, stream=True))
    stopped(running)
    kinds, bodies = zip(*read(path), strict=True)
    assert kinds == ("Request", *["Response"] * len(chunks))
    assert [body["choices"][0]["text"] for body in bodies[1:]] == [chunk.choices[0].text for chunk in chunks]


def test_errors_before_and_inside_a_stream(serve: Any, path: Path) -> None:
    running = serve(log_file=path)
    client = running.client()
    with pytest.raises(BadRequestError):
        client.completions.create(model="default", prompt="x", max_tokens=-1)
    with pytest.raises(APIError, match="no such thing"):
        list(client.completions.create(model="default", prompt="ab💣", max_tokens=9, stream=True))
    stopped(running)
    found = read(path)
    assert [kind for kind, _ in found][:4] == ["Request", "Error response", "Request", "Response"]
    assert found[1][1]["error"]["param"] == "max_tokens"
    assert found[-1][0] == "Error response"
    assert found[-1][1]["error"]["message"] == "no such thing"


def test_a_body_is_one_line_whatever_it_holds(path: Path) -> None:
    log = RequestLog(path)
    body = {"prompt": "a\n\nResponse at noon: {}", "n": 1}
    log.request(json.dumps(body, indent=2).replace("\n", "\r\n").encode())
    log.request(b"not\n\njson \x1b[31m at all")
    log.close()
    first, second = entries(path)
    assert json.loads(first[1]) == body
    assert second == ("Request", "not  json  [31m at all")


def test_it_goes_on_behind_what_is_there(path: Path) -> None:
    for number in range(2):
        log = RequestLog(path)
        log.request(b"%d" % number)
        log.close()
    assert entries(path) == [("Request", "0"), ("Request", "1")]


@pytest.mark.parametrize(("place", "reason"), [("none/file", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_had_is_an_error_at_the_start(tmp_path: Path, place: str, reason: str) -> None:
    message = f"the log file {tmp_path / place} cannot be written: {reason}; name a file in a folder that is yours"
    with pytest.raises(LogFileError) as caught:
        Server(lambda: None, ServerOptions(port=0, log_file=tmp_path / place))  # type: ignore[arg-type, return-value]
    assert str(caught.value) == message


def test_a_port_that_is_taken_leaves_no_thread(serve: Any, path: Path) -> None:
    port = serve().port
    before = threading.active_count()
    with pytest.raises(OSError, match="in use"):
        Server(lambda: None, ServerOptions(port=port, log_file=path))  # type: ignore[arg-type, return-value]
    assert threading.active_count() == before


def test_a_slow_disk_delays_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, request_log.__name__)
    writes, may_write, write = threading.Event(), threading.Event(), os.write

    def slow(file: int, data: bytes) -> int:
        writes.set()
        assert may_write.wait(60)
        return write(file, data)

    monkeypatch.setattr(request_log.os, "write", slow)
    monkeypatch.setattr(request_log, "MOST_BYTES", 3 * (request_log.ENTRY_BYTES + 1))
    log = RequestLog(path)
    log.request(b"0")
    assert writes.wait(60)
    for number in range(1, 9):
        log.request(b"%d" % number)
    assert log.num_dropped == 6
    may_write.set()
    log.close()
    assert entries_with_gap(path)[-1] == ("Request", "2")
    assert "6 requests or responses could not be written" in path.read_text()
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} misses requests and responses from now on: the disk is too slow"
    ]


def test_a_full_disk_is_no_end(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, request_log.__name__)
    write, is_full = os.write, threading.Event()

    def full(file: int, data: bytes) -> int:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr(request_log.os, "write", full)
    is_full.set()
    log = RequestLog(path)
    log.request(b"1")
    log.request(b"2")
    while log.num_dropped < 2:
        pass
    is_full.clear()
    log.request(b"3")
    log.close()
    assert entries_with_gap(path) == [("Missing", "2 requests or responses could not be written"), ("Request", "3")]
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text


def entries_with_gap(path: Path) -> list[tuple[str, str]]:
    """An entry may be torn where something is missing, so that the next begins after an empty line."""
    path.write_text(re.sub(r"\n(?=Missing)", "", path.read_text()))
    return entries(path)
