"""Messages of one line and of several."""

from __future__ import annotations

import pytest

from mistralrs_onnx.tools.chatting.chat_input import MORE, PROMPT, read_message


def read(*lines: str) -> tuple[str, list[str]]:
    """A message, and the prompts before its lines."""
    typed, prompts = iter(lines), []

    def line(prompt: str) -> str:
        prompts.append(prompt)
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    return read_message(line), prompts


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["hello", "there"], "hello"),
        ([""], ""),
        (["hello \\", "there\\", "you", "more"], "hello \nthere\nyou"),
        (["hello\\"], "hello\n"),
        (['"""', "a", "", "  b", '"""', "c"], "a\n\n  b"),
        (['"""a', 'b"""'], "a\nb"),
        (['"""one line"""', "c"], "one line"),
        (['"""', "a"], "a"),
        (['say """', "b"], 'say """'),
    ],
)
def test_what_a_message_is(lines: list[str], message: str) -> None:
    assert read(*lines)[0] == message


def test_a_message_that_goes_on_has_another_prompt() -> None:
    assert read("a\\", "b")[1] == [PROMPT, MORE]


def test_the_end_of_the_input() -> None:
    with pytest.raises(EOFError):
        read()
