"""The keyboard of a chat: history, completion and pasted lines, by prompt_toolkit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from .answering import Model
from .chat_commands import COMMANDS
from .chat_input import ReadLine

LARGEST_HISTORY = 1 << 20


def terminal_lines(model: Model, history: Path | None) -> ReadLine:
    """`history`: a file that keeps what was typed; None forgets it in the end."""
    session: PromptSession[str] = PromptSession(
        history=kept_history(history),
        completer=CommandCompleter(model),
        complete_while_typing=False,
        key_bindings=newline_keys(),
    )
    return session.prompt


def newline_keys() -> KeyBindings:
    """Alt-Enter begins a new line."""
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def insert(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def kept_history(path: Path | None) -> History:
    """Nobody else may read the file, and it does not grow forever. What cannot be kept is not."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        if path.stat().st_size > LARGEST_HISTORY:
            lately = path.read_bytes()[-LARGEST_HISTORY // 2 :]
            path.write_bytes(lately[lately.find(b"\n\n") + 1 :])
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


class CommandCompleter(Completer):
    """Commands, their files, and the adapters that there are."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        name, space, rest = text.partition(" ")
        if not space and text.startswith("/"):
            for known, command in COMMANDS.items():
                if known.startswith(text):
                    yield Completion(known, -len(text), display_meta=command.meaning)
        elif name in COMMANDS and COMMANDS[name].argument == "FILE":
            yield from self._paths.get_completions(Document(rest), complete_event)
        elif name == "/adapter" and self._model.adapters is not None:
            word = rest.rpartition(" ")[2]
            for adapter in self._model.adapters.loaded():
                if adapter.name.startswith(word):
                    yield Completion(adapter.name, -len(word))
