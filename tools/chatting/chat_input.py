"""From typed lines to messages: one may go on over several lines."""

from __future__ import annotations

import sys
from collections.abc import Callable

QUOTES = '"""'
PROMPT, MORE = "> ", ". "

ReadLine = Callable[[str], str]  # gets the prompt; raises EOFError at the end of the input


def piped_line(prompt: str) -> str:
    """Without a terminal nobody sees a prompt."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def read_message(read: ReadLine) -> str:
    """A line, lines of which all but the last end in a backslash, or what stands between lines of quotes.

    The end of the input ends it too; raises EOFError when there is nothing before that.
    """
    line = read(PROMPT)
    if line.strip().startswith(QUOTES):
        return _block(line.strip()[len(QUOTES) :], read)
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(_more(read) or "")
    return "\n".join(lines)


def _block(first: str, read: ReadLine) -> str:
    lines: list[str] = []
    line: str | None = first
    while line is not None and not line.rstrip().endswith(QUOTES):
        lines.append(line)
        line = _more(read)
    lines.append("" if line is None else line.rstrip()[: -len(QUOTES)])
    return "\n".join(lines).strip("\n")


def _more(read: ReadLine) -> str | None:
    try:
        return read(MORE)
    except EOFError:
        return None
