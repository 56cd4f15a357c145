"""What people see: colours where a terminal has them, and nothing that a model writes to steer the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TextIO

import click

KEPT = "\n\t"
CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in KEPT} | {ord("\r"): ""}

Write = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Screen:
    """A place to write to. `is_terminal`: text of models loses its control characters there."""

    write: Write
    is_terminal: bool = False
    is_coloured: bool = False

    def answer(self, text: str) -> None:
        self.write(self._safe(text))

    def note(self, line: str) -> None:
        """A line about the conversation, not of it."""
        line = self._safe(line)
        self.write((click.style(line, dim=True) if self.is_coloured else line) + "\n")

    def error(self, line: str) -> None:
        line = self._safe(f"error: {line}")
        self.write((click.style(line, fg="red") if self.is_coloured else line) + "\n")

    def _safe(self, text: str) -> str:
        return printable(text) if self.is_terminal else text


def standard_output() -> Screen:
    stream = sys.stdout
    return Screen(partial(write_to, stream), stream.isatty(), is_coloured(stream))


def write_to(stream: TextIO, text: str) -> None:
    """At once; a character that the stream's encoding lacks becomes a question mark."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def is_coloured(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    return text.translate(CONTROL)
