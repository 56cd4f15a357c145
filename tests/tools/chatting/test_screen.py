"""What reaches a terminal."""

from __future__ import annotations

import io

import pytest

from mistralrs_onnx.tools.chatting.screen import Screen, is_coloured, printable, write_to


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_model_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\tc\r\nd\x9b1mé") == "a\ufffd[2Jb\tc\nd\ufffd1mé"
    for is_terminal, expected in ((True, "\ufffd"), (False, "\x1b")):
        written: list[str] = []
        screen = Screen(written.append, is_terminal)
        screen.answer("\x1b")
        screen.note("\x1b")
        screen.error("\x1b")
        assert written == [expected, f"{expected}\n", f"error: {expected}\n"]


def test_only_notes_and_errors_are_coloured() -> None:
    written: list[str] = []
    screen = Screen(written.append, is_coloured=True)
    screen.answer("hello")
    screen.note("fast")
    screen.error("no")
    assert written == ["hello", "\x1b[2mfast\x1b[0m\n", "\x1b[31merror: no\x1b[0m\n"]
    plain: list[str] = []
    Screen(plain.append).error("no")
    assert plain == ["error: no\n"]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_for_terminals_of_people_who_want_them(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert is_coloured(Terminal())
    assert not is_coloured(io.StringIO())
    monkeypatch.setenv(name, value)
    assert not is_coloured(Terminal())


def test_what_an_encoding_lacks_is_no_crash() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "latin-1", newline="\n")
    write_to(stream, "é → ü\n")
    assert raw.getvalue() == "é ? ü\n".encode("latin-1")
