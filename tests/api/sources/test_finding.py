"""What a user calls a model, and which source that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistralrs_onnx.caching.cache import DEMO_FILE
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.sources.finding import find_source, is_package
from mistralrs_onnx.sources.source import ModelSource


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "new.gguf").write_bytes(b"GGUF....")
    (tmp_path / "old.bin").write_bytes(b"tjgg....")
    (tmp_path / "part.safetensors").write_bytes(b"....")
    return tmp_path


def test_files_are_what_they_begin_with(models: Path) -> None:
    assert find_source(models / "new.gguf") == ModelSource("gguf", str(models), "new.gguf")
    assert find_source(str(models / "old.bin")) == ModelSource("ggml", str(models), "old.bin")
    assert find_source(models, "old.bin") == ModelSource("ggml", str(models), "old.bin")
    assert find_source(models, "new.gguf") == ModelSource("gguf", str(models), "new.gguf")


def test_folders_and_repositories_are_of_safetensors_unless_a_file_is_named(models: Path) -> None:
    assert find_source(models) == ModelSource("plain", str(models))
    assert find_source("acme/tiny") == ModelSource("plain", "acme/tiny")
    assert find_source("acme/tiny", "q4.GGUF") == ModelSource("gguf", "acme/tiny", "q4.GGUF")
    assert find_source("acme/tiny", "tiny.ggmlv3.bin") == ModelSource("ggml", "acme/tiny", "tiny.ggmlv3.bin")


def test_home_is_found(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(models))
    assert find_source("~/new.gguf") == ModelSource("gguf", str(models), "new.gguf")


def test_the_demo_is_the_demo_unless_a_folder_is_called_so(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_source("demo").filename == DEMO_FILE
    with pytest.raises(CompileError, match="the demo model is one file: leave filename 'a' out"):
        find_source("demo", "a")
    monkeypatch.chdir(models)
    (models / "demo").mkdir()
    assert find_source("demo") == ModelSource("plain", "demo")


def test_packages_are_known_by_their_manifest(models: Path) -> None:
    assert not is_package(models)
    (models / "manifest.json").write_text("{}")
    assert is_package(models)
    assert is_package(str(models))


@pytest.mark.parametrize(
    ("model", "filename", "message"),
    [
        ("", None, "the model's name is empty"),
        ("new.gguf", "new.gguf", "is a file: leave filename 'new.gguf' out"),
        ("part.safetensors", None, "is a part of a checkpoint: name its folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    models: Path, monkeypatch: pytest.MonkeyPatch, model: str, filename: str | None, message: str
) -> None:
    monkeypatch.chdir(models)
    with pytest.raises(CompileError, match=message):
        find_source(model, filename)
