"""Tables fit the terminal, and are plain text elsewhere."""

from __future__ import annotations

import io
import sys

import click
import pytest

from mistralrs_onnx.tools.sections import Section, lines, show

LONG = "model.layers.0-29.self_attn.q_proj"
SECTION = Section(
    "Title",
    [("a", "12", "short"), (LONG, "3", "some words that can be folded"), ("  said of the line above",)],
    ("name", "size", "text"),
    frozenset({1}),
    "a note",
)


def texts(section: Section, width: int | None = None) -> list[str]:
    return [line.text for line in lines(section, width)]


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    assert texts(SECTION) == [
        "Title",
        f"{'name':34}  size  text",
        f"{'a':34}    12  short",
        f"{LONG}     3  some words that can be folded",
        "  said of the line above",
        "a note",
    ]


def test_wide_cells_are_folded_where_they_can_be_cut() -> None:
    folded = texts(SECTION, 50)
    assert max(map(len, folded)) <= 50
    assert folded[3:6] == [
        "model.layers.0-29.        3  some words that can",
        "  self_attn.q_proj             be folded",
        "  said of the line above",
    ]


@pytest.mark.parametrize("width", [20, 40, 60])
def test_one_long_word_is_folded_too(width: int) -> None:
    folded = texts(Section("", [("x" * 100,)]), width)[1:]
    assert max(map(len, folded)) <= width
    assert "".join(folded).replace(" ", "") == "x" * 100


def test_columns_are_never_so_narrow_that_nothing_can_be_read() -> None:
    assert texts(SECTION, 5)[1].split() == ["name", "size", "text"]


def test_names_from_files_cannot_move_the_cursor() -> None:
    assert texts(Section("", [("\x1b[2Jname", "b")]))[1] == "\N{REPLACEMENT CHARACTER}[2Jname  b"


def test_standard_output_that_is_no_terminal_gets_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    show([SECTION, SECTION])
    printed = capsys.readouterr().out
    assert printed == "\n".join([*texts(SECTION), "", *texts(SECTION), ""])


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_colours_unless_it_wants_none(
    no_color: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show([SECTION])
    printed = capsys.readouterr().out
    assert click.unstyle(printed) == "\n".join([*texts(SECTION, 50), ""])
    assert ("\x1b[" in printed) == (not no_color)


def test_a_terminal_without_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    show([Section("Tree", [("└─ leaf", "1")])])
    stream.flush()
    assert stream.buffer.getvalue() == b"Tree\n?? leaf  1\n"
