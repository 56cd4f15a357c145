"""What lies in the cache, and what may be deleted of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from mistralrs_onnx.caching.cache import cached_package, file_digest
from mistralrs_onnx.caching.cache_entries import Entry, delete, entries, forget_digests, problems
from mistralrs_onnx.caching.cache_places import Origin
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.sources.source import ModelSource


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "packages").mkdir(parents=True)
    return tmp_path / "cache" / "packages"


Q8_0 = CompileOptions(isq=Isq("Q8_0"))


class Made(NamedTuple):
    """A cache with a package, and what that was made of."""

    cache: Path
    name: str
    source: ModelSource


@pytest.fixture(scope="module")
def made(tiny_llama, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    tiny_llama(folder / "tiny.gguf").write()
    source = ModelSource("gguf", str(folder), "tiny.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRALRS_CACHE", str(folder / "cache"))
        return Made(folder / "cache", cached_package(source, Q8_0).name, source)


@pytest.fixture
def package(packages: Path, made: Made) -> Path:
    shutil.copytree(made.cache, packages.parent, dirs_exist_ok=True)
    return packages / made.name


def only() -> Entry:
    (found,) = entries()
    return found


def ended_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_no_cache_is_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "nowhere"))
    assert entries() == []


def test_a_package_knows_what_it_was_made_of_and_when_it_was_used(package: Path, made: Made) -> None:
    entry = only()
    assert (entry.name, entry.state) == (package.name, "package")
    assert entry.size == sum(path.stat().st_size for path in package.iterdir())
    assert entry.origin == Origin("gguf", str(made.cache.with_name("tiny.gguf")), ("--isq Q8_0",))
    assert entry.used is not None
    assert 0 <= time.time() - entry.made < 60
    assert list(problems(entry)) == []


def test_using_a_package_again_is_noted(package: Path, tmp_path: Path, made: Made) -> None:
    note = tmp_path / "cache" / "notes" / f"{package.name}.json"
    os.utime(note, (1000, 1000))
    assert only().used == 1000
    assert cached_package(made.source, Q8_0) == package
    assert time.time() - (only().used or 0) < 60


def test_every_problem_of_a_package_is_found(package: Path) -> None:
    (package / "config.json").unlink()
    content = bytearray((package / "engine.onnx").read_bytes())
    content[100] ^= 1
    (package / "engine.onnx").write_bytes(content)
    assert list(problems(only())) == ["config.json is missing", "engine.onnx has another sha256"]


def test_another_versions_package_is_unusable_and_can_be_deleted(package: Path) -> None:
    text = (package / "manifest.json").read_text()
    (package / "manifest.json").write_text(text.replace('"schema": ', '"schema": 99'))
    assert only().state == "unusable"
    assert "compile the model again" in next(problems(only()))
    delete(only())
    assert entries() == []


def test_what_an_interrupted_compile_left(packages: Path) -> None:
    (packages / f".tiny-1.tmp-{ended_process()}").mkdir()
    (packages / ".tiny-1.old").mkdir()
    assert [entry.state for entry in entries()] == ["leftover", "leftover"]
    for entry in entries():
        delete(entry)
    assert list(packages.iterdir()) == []


def test_a_compile_that_runs_is_left_alone_for_a_day(packages: Path) -> None:
    work = packages / f".tiny-1.tmp-{os.getpid()}"
    work.mkdir()
    assert only().state == "compiling"
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(work, (long_ago, long_ago))
    assert only().state == "leftover"


def test_links_and_files_are_not_ours(packages: Path, tmp_path: Path) -> None:
    (packages / "link").symlink_to(tmp_path)
    (packages / "file").write_text("a note")
    assert [(entry.state, entry.size) for entry in entries()] == [("foreign", 0)] * 2
    with pytest.raises(AssertionError):
        delete(entries()[0])


def test_deleting_takes_the_note_along_and_follows_no_link(package: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    (package / "link").symlink_to(tmp_path / "precious")
    delete(only())
    assert not package.exists()
    assert list((tmp_path / "cache" / "notes").iterdir()) == []
    assert (tmp_path / "precious" / "file").read_text() == "kept"


def test_a_package_that_is_open_can_be_read_on(package: Path) -> None:
    with (package / "engine.onnx").open("rb") as file:
        delete(only())
        assert len(file.read()) > 1000


def test_sums_are_forgotten(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    file_digest(tmp_path / "file")
    assert list((tmp_path / "cache" / "digests").iterdir())
    forget_digests()
    assert not (tmp_path / "cache" / "digests").exists()
