"""Tables for people: coloured and folded to the width of a terminal, plain text in columns elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import click

Row = tuple[str, ...]
NARROWEST = 12  # columns that a folded cell keeps
GAP = "  "


@dataclass(frozen=True, slots=True)
class Section:
    """A table under a title. A row of one cell spans all columns. `right`: columns of numbers; `note`: a line below."""

    title: str
    rows: Sequence[Row]
    head: Row = ()
    right: frozenset[int] = frozenset()
    note: str = ""


class Line(NamedTuple):
    """`style`: of STYLES, for the first `num_styled` letters."""

    text: str
    style: str
    num_styled: int


STYLES: dict[str, Callable[[str], str]] = {
    "title": lambda text: click.style(text, bold=True),
    "dim": lambda text: click.style(text, dim=True),
    "first": lambda text: click.style(text, fg="cyan"),
}


def show(sections: Sequence[Section]) -> None:
    """On standard output."""
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else None
    for number, section in enumerate(sections):
        if number:
            click.echo()
        for line in lines(section, width):
            text = _styled(line) if is_terminal and not os.environ.get("NO_COLOR") else line.text
            click.echo(_encodable(text))


def _encodable(text: str) -> str:
    """Not every terminal has the letters for branches of a tree."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _styled(line: Line) -> str:
    return STYLES[line.style](line.text[: line.num_styled]) + line.text[line.num_styled :]


def lines(section: Section, width: int | None) -> Iterator[Line]:
    """None of them is wider than `width`, as far as cells can be folded."""
    yield Line(section.title, "title", len(section.title))
    rows = [tuple(map(printable, row)) for row in section.rows]
    widths = _widths([section.head, *rows], width, section.right)
    if section.head:
        yield from (Line(text, "dim", len(text)) for text in _row(section.head, widths, section.right))
    for row in rows:
        if len(row) == 1:
            yield from _spanning(row[0], width)
        else:
            yield from (Line(text, "first", widths[0]) for text in _row(row, widths, section.right))
    if section.note:
        yield from _spanning(printable(section.note), width)


def _spanning(text: str, width: int | None) -> Iterator[Line]:
    return (Line(piece, "dim", len(piece)) for piece in _fold(text, width or len(text)))


def _widths(rows: Sequence[Row], width: int | None, right: frozenset[int]) -> list[int]:
    """Of columns; the widest ones of text give way until all fit."""
    columns = zip(*(row for row in rows if len(row) > 1), strict=True)
    widths = [max(map(len, column)) for column in columns]
    texts = [i for i in range(len(widths)) if i not in right]
    while width is not None and texts and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= NARROWEST:
            break
        widths[widest] -= 1
    return widths


def _row(row: Row, widths: Sequence[int], right: frozenset[int]) -> Iterator[str]:
    cells = [_fold(cell, width) for cell, width in zip(row, widths, strict=True)]
    for i in range(max(map(len, cells))):
        parts = [cell[i] if i < len(cell) else "" for cell in cells]
        aligned = (
            part.rjust(width) if number in right else part.ljust(width)
            for number, (part, width) in enumerate(zip(parts, widths, strict=True))
        )
        yield GAP.join(aligned).rstrip()


def _fold(text: str, width: int) -> list[str]:
    """Pieces of a text, later ones indented by two more than the first; cut at a blank, or behind a mark."""
    indent = re.match(r" *", text)
    later = " " * (indent.end() + 2 if indent else 2)
    pieces = []
    while len(text) > width > len(later):
        cut = max(text.rfind(" ", 0, width + 1), *(text.rfind(mark, 0, width) + 1 for mark in "./+-"))
        cut = cut if cut > max(width // 3, len(later)) else width
        pieces.append(text[:cut].rstrip())
        text = later + text[cut:].lstrip()
    return [*pieces, text]


def printable(text: str) -> str:
    """Names come from files: they must not move the cursor."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
