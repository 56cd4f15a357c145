"""A chat in the terminal: the answer streams, Ctrl-C stops it, and the conversation is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mistralrs_onnx.runtime.errors import RequestError

from .answering import Model
from .chat_commands import EXIT, perform
from .chat_input import ReadLine, piped_line, read_message
from .conversation import Conversation
from .screen import standard_output

if TYPE_CHECKING:
    from mistralrs_onnx.model import Model as Loaded

GREETING = "/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves."


def chat(model: Model, history: Path | None = None) -> None:
    """Talks on standard input and output until the input ends. `history`: a file to keep in it what was typed."""
    talk(Conversation(model, standard_output()), history)


def check_template(model: Loaded) -> None:
    """Raises RequestError."""
    if model.chat_template is None:
        raise RequestError(f"{model.name} has no chat template, so it cannot chat: have it continue texts, without -i")


def talk(conversation: Conversation, history: Path | None = None, first: str | None = None) -> None:
    """As `chat`. `first`: a question to begin with."""
    conversation.screen.note(f"Talking to {conversation.model.name}.\n{GREETING}")
    read = lines(conversation.model, history)
    if first is not None:
        conversation.ask(first)
    listen(conversation, read)


def lines(model: Model, history: Path | None) -> ReadLine:
    if not sys.stdin.isatty():
        return piped_line
    from .chat_terminal import terminal_lines  # slow to import, and of use only here

    return terminal_lines(model, history)


def listen(conversation: Conversation, read: ReadLine) -> None:
    """Until the input ends, somebody leaves, or interrupts twice."""
    is_leaving = False
    while True:
        try:
            message = read_message(read)
            is_leaving = False
            if message.strip() == EXIT:
                return
            hear(conversation, message)
        except EOFError:
            return
        except KeyboardInterrupt:
            if is_leaving:
                return
            is_leaving = True
            conversation.screen.note("Ctrl-C once more, Ctrl-D or /exit leaves.")


def hear(conversation: Conversation, message: str) -> None:
    """A command begins with a slash; a question about something that does, with a space."""
    if message.startswith("/") and "\n" not in message:
        perform(conversation, message)
    elif message.strip():
        conversation.ask(message.strip())
