"""Every request and response in a file, which a thread of its own writes: whoever serves waits for no disk."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from mistralrs_onnx.runtime.errors import PackageError

logger = logging.getLogger(__name__)

MOST_BYTES = 32 << 20  # that wait for the disk
ENTRY_BYTES = 256  # that an entry takes beside its text
FAREWELL = 2.0  # seconds for what still waits when the server ends
ONE_LINE = bytes(byte if byte >= 32 and byte != 127 else 32 for byte in range(256))


class LogFileError(PackageError):
    """A log file cannot be had. Commands end as they do for any other file."""


class _Entry(NamedTuple):
    kind: str
    seconds: float  # since the epoch
    text: bytes

    @property
    def size(self) -> int:
        return len(self.text) + ENTRY_BYTES


class RequestLog:
    """Takes bodies alone, so that no header is ever written. What the disk cannot take in time is left out.

    As mistral.rs: `Request at {time}: {json}` and an empty line; so for `Response` and `Error response`.
    """

    def __init__(self, path: Path) -> None:
        """Appends to what is there. Raises LogFileError."""
        self._path = path
        self._file = _opened(path)
        self._entries: SimpleQueue[_Entry | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._num_bytes = 0  # that wait
        self._num_unsaid = 0  # left out since the last entry
        self.num_dropped = 0
        self._thread = threading.Thread(target=self._run, name="mistralrs-log", daemon=True)
        self._thread.start()

    def request(self, body: bytes) -> None:
        self._put("Request", body)

    def response(self, data: bytes) -> None:
        """A whole answer, or events of a stream."""
        for text in _texts(data):
            self._put("Error response" if text.startswith(b'{"error"') else "Response", text)

    def close(self) -> None:
        """Waits a moment for what is not written yet."""
        self._entries.put(None)
        self._thread.join(FAREWELL)

    def _put(self, kind: str, text: bytes) -> None:
        entry = _Entry(kind, time.time(), text)
        with self._lock:
            fits = self._num_bytes + entry.size <= MOST_BYTES
            self._num_bytes += entry.size if fits else 0
        if fits:
            self._entries.put(entry)
        else:
            self._drop("the disk is too slow")

    def _drop(self, reason: str) -> None:
        with self._lock:
            is_first = not self.num_dropped
            self.num_dropped += 1
            self._num_unsaid += 1
        if is_first:
            logger.warning("%s misses requests and responses from now on: %s", self._path, reason)

    def _run(self) -> None:
        while (entry := self._entries.get()) is not None:
            try:
                self._write(entry)
            except OSError as error:
                self._drop(error.strerror or str(error))
            with self._lock:
                self._num_bytes -= entry.size
        os.close(self._file)

    def _write(self, entry: _Entry) -> None:
        with self._lock:
            num_missing, self._num_unsaid = self._num_unsaid, 0
        note = _Entry("Missing", entry.seconds, b"%d requests or responses could not be written" % num_missing)
        data = (b"\n" + _line(note) if num_missing else b"") + _line(entry)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            with self._lock:
                self._num_unsaid += num_missing
            raise


def _opened(path: Path) -> int:
    """For its owner alone, if it is new: it will hold what people ask."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"the log file {path} cannot be written: {error.strerror}; name a file in a folder that is yours"
        raise LogFileError(message) from error


def _texts(data: bytes) -> Iterator[bytes]:
    if not data.startswith((b"data: ", b": ")):
        yield data
        return
    for event in data.split(b"\n\n"):
        if event.startswith(b"data: {"):  # no signs of life, no [DONE]
            yield event.removeprefix(b"data: ")


def _line(entry: _Entry) -> bytes:
    """In JSON, breaks of lines stand between values only, where a space does as well."""
    when = datetime.fromtimestamp(entry.seconds).astimezone()
    return f"{entry.kind} at {when}: ".encode() + entry.text.translate(ONE_LINE) + b"\n\n"
