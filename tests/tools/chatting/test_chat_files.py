"""Conversations that are kept."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.tools.chatting.chat_files import FORMAT, LARGEST, Saved, load, save

SYSTEM = {"role": "system", "content": "be brief"}
TURNS = [{"role": "user", "content": "hi ü"}, {"role": "assistant", "content": "hello"}]
SAVED = Saved("parrot", [SYSTEM, *TURNS], {"temperature": 0.5, "seed": None}, ["sql:0.5"])


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    save(path, SAVED, overwrite=False)
    assert load(path) == SAVED
    assert (SAVED.system, SAVED.turns) == ("be brief", TURNS)
    bare = Saved("parrot", TURNS, {})
    assert (bare.system, bare.turns) == ("", TURNS)


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    save(tmp_path / "chat.json", SAVED, overwrite=False)
    assert stat.S_IMODE((tmp_path / "chat.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text("mine")
    with pytest.raises(RequestError, match=r"exists already: /save! .*chat.json writes over it"):
        save(path, SAVED, overwrite=False)
    assert path.read_text() == "mine"
    save(path, SAVED, overwrite=True)
    assert load(path) == SAVED


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be written: No such file or directory"):
        save(tmp_path / "nowhere" / "chat.json", SAVED, overwrite=False)
    half = Saved("parrot", [{"role": "user", "content": "\ud800"}, TURNS[1]], {})
    with pytest.raises(RequestError, match="cannot be written"):
        save(tmp_path / "chat.json", half, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def body(**changes: Any) -> str:
    values = {"format": FORMAT, "model": "parrot", "messages": TURNS, "settings": {}, "adapters": []}
    return json.dumps(values | changes)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no conversation that /save wrote"),
        ("[1]", "its format is not"),
        (body(format="mistralrs-onnx chat 2"), "its format is not 'mistralrs-onnx chat 1'"),
        (body(model=3), "needs model, messages, settings and adapters"),
        (body(messages="hi"), "needs model, messages"),
        (body(messages=[TURNS[0]]), "take turns, and the assistant be last"),
        (body(messages=TURNS[::-1]), "take turns"),
        (body(messages=[*TURNS, SYSTEM, TURNS[1]]), "take turns"),
        (body(messages=[TURNS[0], {"role": "tool", "content": "x"}]), "message 2 needs a role"),
        (body(messages=[{"role": "user", "content": 3}, TURNS[1]]), "message 1 needs a role"),
        (body(adapters=[1]), "adapters must be names"),
        ("[" * 100_000, "is no conversation"),
    ],
)
def test_what_is_read_is_checked(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=complaint):
        load(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        load(tmp_path / "chat.json")
    with pytest.raises(RequestError, match="cannot be read: Is a directory"):
        load(tmp_path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(RequestError, match="more than 16 MiB"):
        load(tmp_path / "large")
