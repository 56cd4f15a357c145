"""The keyboard: what Tab offers, what is remembered, what is pasted."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from parrot import Parrot, adapted_parrot
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from mistralrs_onnx.tools.chatting.chat_terminal import LARGEST_HISTORY, CommandCompleter, kept_history, terminal_lines


def typed(keys: str, *, num_lines: int = 1, history: Path | None = None) -> list[str]:
    with create_pipe_input() as keyboard, create_app_session(keyboard, DummyOutput()):
        keyboard.send_text(keys)
        read = terminal_lines(Parrot(), history)
        return [read("> ") for _ in range(num_lines)]


def test_lines_are_read_one_by_one() -> None:
    assert typed("one\rtwo\r", num_lines=2) == ["one", "two"]


def test_what_is_pasted_keeps_its_lines() -> None:
    assert typed("\x1b[200~a\nb\x1b[201~c\r") == ["a\nbc"]


def test_alt_enter_begins_a_line() -> None:
    assert typed("a\x1b\rb\r") == ["a\nb"]


@pytest.mark.parametrize(("key", "error"), [("\x03", KeyboardInterrupt), ("\x04", EOFError)])
def test_ways_out(key: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        typed(key)


def test_history_is_kept_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "history"
    typed("one\r", history=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    typed("two\r", history=path)
    assert list(kept_history(path).load_history_strings()) == ["two", "one"]


def test_history_does_not_grow_forever(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("\n# then\n+ever again\n" * (LARGEST_HISTORY // 18))
    assert next(iter(kept_history(path).load_history_strings())) == "ever again"
    assert LARGEST_HISTORY // 3 < path.stat().st_size <= LARGEST_HISTORY // 2


def test_a_history_that_cannot_be_kept_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert isinstance(kept_history(tmp_path / "file" / "history"), InMemoryHistory)


def completions(text: str, parrot: Parrot) -> list[str]:
    found = CommandCompleter(parrot).get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + each.start_position] + each.text for each in found]


def test_tab_completes_commands_files_and_adapters(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text("")
    parrot = Parrot()
    assert completions("/te", parrot) == ["/temperature"]
    assert completions("/top", parrot) == ["/topk", "/topp"]
    assert completions("te", parrot) == completions("/topk 1", parrot) == completions("/adapter s", parrot) == []
    assert completions(f"/load {tmp_path}/c", parrot) == [f"/load {tmp_path}/chat.json"]


def test_tab_completes_names_of_adapters() -> None:
    parrot = adapted_parrot("sql", "poem")
    assert completions("/adapter s", parrot) == ["/adapter sql"]
    assert completions("/adapter sql p", parrot) == ["/adapter sql poem"]
