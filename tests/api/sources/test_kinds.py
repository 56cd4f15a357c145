"""What is said of a path that is of another kind than it was called."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.sources.kinds import checkpoint_file, checkpoint_folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("tiny.Q4_1.gguf", "other.gguf"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "package").mkdir()
    (tmp_path / "package/manifest.json").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("tiny.Q4_1.gguf", "takes a folder of safetensors: say gguf -m {} -f tiny.Q4_1.gguf"),
        (".", "has other.gguf, tiny.Q4_1.gguf: say gguf -m {} -f other.gguf"),
        ("empty", "no folder of safetensors: name another folder"),
        ("package", "it is a package, say compiled -m {}/package"),
    ],
)
def test_no_folder_of_safetensors(models: Path, name: str, advice: str) -> None:
    with pytest.raises(CompileError) as caught:
        checkpoint_folder(models / name)
    assert advice.format(models) in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "name", "advice"),
    [
        ("", "tiny.Q4_0.gguf", "no such file; did you mean tiny.Q4_1.gguf?"),
        ("", "large", "no such file; there is other.gguf, tiny.Q4_1.gguf"),
        ("empty", "large", "no such file; {}/empty has no .gguf file"),
        ("", "empty", "empty is a folder, and -f names a file"),
        ("other.gguf", "x", "its folder is wanted: say -m {} -f other.gguf"),
    ],
)
def test_no_file_of_that_name(models: Path, folder: str, name: str, advice: str) -> None:
    with pytest.raises(CompileError) as caught:
        checkpoint_file(models / folder, name)
    assert advice.format(models) in str(caught.value)


def test_what_is_there_is_taken(models: Path) -> None:
    assert checkpoint_file(models, "tiny.Q4_1.gguf") == models / "tiny.Q4_1.gguf"
    (models / "config.json").touch()
    assert checkpoint_folder(models) == models
