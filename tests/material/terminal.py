"""A program in a terminal, which a test watches and types into."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Terminal:
    """A program in a terminal: what it shows, and keys to press."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self.process = process
        self._keyboard = keyboard
        self.shown = ""
        self._num_seen = 0

    def press(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def wait_for(self, *texts: str) -> None:
        """One behind the other, all behind what was waited for before."""
        for text in texts:
            self._wait_for(text)

    def _wait_for(self, text: str) -> None:
        until = time.monotonic() + 60
        while text not in self.shown[self._num_seen :]:
            assert time.monotonic() < until, self.shown
            self._read()
        self._num_seen = self.shown.index(text, self._num_seen) + len(text)

    def _read(self) -> None:
        if select.select([self._keyboard], [], [], 0.1)[0]:
            self.shown += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self._keyboard, 4096).decode())


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "PROMPT_TOOLKIT_NO_CPR": "1"}
    with subprocess.Popen(
        arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            os.close(ours)
