"""A chat, typed and read back."""

from __future__ import annotations

import io
import signal
import sys
from pathlib import Path
from typing import Any

import parrot
import pytest
from parrot import Parrot
from terminal import terminal

from mistralrs_onnx.tools.chatting.conversation import Conversation
from mistralrs_onnx.tools.chatting.interactive import chat, listen
from mistralrs_onnx.tools.chatting.screen import Screen


def typed(model: Parrot, *lines: Any) -> tuple[list[str], str]:
    """Lines are typed one after the other; an exception class is what happens instead of a line.

    What was said, and all that was written.
    """
    coming = iter([*lines, EOFError])
    written: list[str] = []

    def read(prompt: str) -> str:
        line = next(coming)
        if isinstance(line, str):
            return line
        raise line

    conversation = Conversation(model, Screen(written.append))
    listen(conversation, read)
    return [turn["content"] for turn in conversation.turns], "".join(written)


def test_lines_are_asked_and_answered() -> None:
    assert typed(Parrot(), "hello", "", " ", '"""', "a", "b", '"""')[0] == ["hello", "HELLO ", "a\nb", "A B "]


def test_exit_ends() -> None:
    assert typed(Parrot(), " /exit ", "hello") == ([], "")


def test_a_question_about_something_with_a_slash_begins_with_a_space() -> None:
    assert typed(Parrot(), " /etc is what?", "/etc is what?")[0] == ["/etc is what?", "/ETC IS WHAT? "]
    assert typed(Parrot(), '"""', "/help", "me", '"""')[0] == ["/help\nme", "/HELP ME "]


def test_an_interrupt_clears_the_line_and_two_leave() -> None:
    interrupt = KeyboardInterrupt
    turns, text = typed(Parrot(), interrupt, "hello", '"""', interrupt, "bye", interrupt, interrupt, "no more")
    assert turns == ["hello", "HELLO ", "bye", "BYE "]
    assert text.count("Ctrl-C once more") == 3


@pytest.mark.parametrize("line", ["hello", "hello\n"])
def test_without_a_terminal_lines_are_read_from_standard_input(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(line))
    chat(Parrot())
    out = capsys.readouterr().out
    assert out.startswith("Talking to parrot.\n/help lists commands")
    assert "\nHELLO \n[1 token, " in out
    assert "\x1b" not in out


def test_an_interrupt_in_a_terminal_stops_the_answer() -> None:
    material = Path(parrot.__file__).parent
    script = f"import sys; sys.path.append({str(material)!r}); import parrot; chat(parrot.StuckParrot())"
    with terminal(
        sys.executable, "-c", f"from mistralrs_onnx.tools.chatting.interactive import chat; {script}"
    ) as shown:
        shown.wait_for("Talking to parrot.", ">")
        shown.press("hello\r")
        shown.wait_for("WELL ... ")
        shown.process.send_signal(signal.SIGINT)  # as the terminal does at Ctrl-C
        shown.wait_for("[1 token, ", ", stopped]", ">")
        shown.press("/stats\r")
        shown.wait_for("conversation: 2 messages", ">")
        shown.press("/exit\r")
        assert shown.process.wait(20) == 0
