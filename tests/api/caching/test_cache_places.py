"""Notes on cached packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistralrs_onnx.caching.cache_places import Origin, cache_folder, note_place, note_use, packages_folder, read_note


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_environment_says_where(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (cache_folder(), packages_folder()) == (cache, cache / "packages")
    monkeypatch.delenv("MISTRALRS_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "mistralrs-onnx"


def test_a_note_is_read_as_it_was_written() -> None:
    origin = Origin("gguf", "/models/a.gguf", ("--isq Q4K",))
    note_use("a", origin)
    assert read_note("a") == origin


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": 1, "path": 2, "options": 3}'])
def test_a_note_that_cannot_be_read_is_none(text: str) -> None:
    assert read_note("a") is None
    note_place("a").parent.mkdir(parents=True)
    note_place("a").write_text(text)
    assert read_note("a") is None


def test_a_cache_that_cannot_be_written_gets_no_note(cache: Path) -> None:
    cache.mkdir()
    (cache / "notes").write_text("a file, where the folder should be")
    note_use("a", Origin("gguf", "a"))
    assert read_note("a") is None
