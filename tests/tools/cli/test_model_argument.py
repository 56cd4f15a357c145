"""What a command may be given as a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.tools.cli.adapter_options import Found
from mistralrs_onnx.tools.cli.model_argument import find_model
from mistralrs_onnx.tools.cli.options import CompiledNow


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def source(text: Path | str) -> tuple[str, str, str | None]:
    found = find_model(str(text))
    assert isinstance(found, CompiledNow)
    return found.chosen.source.kind, found.chosen.source.model, found.chosen.source.filename


def test_a_package_is_itself(tmp_path: Path) -> None:
    made(tmp_path / "manifest.json")
    made(tmp_path / "config.json")
    assert find_model(str(tmp_path))() == Found(tmp_path)


def test_a_checkpoint_is_to_be_compiled(tmp_path: Path, smollm2_gguf: Path) -> None:
    made(tmp_path / "plain" / "config.json")
    made(tmp_path / "gguf" / "a.gguf")
    assert source(tmp_path / "plain") == ("plain", str(tmp_path / "plain"), None)
    assert source(tmp_path / "gguf") == source(tmp_path / "gguf/a.gguf") == ("gguf", str(tmp_path / "gguf"), "a.gguf")
    assert source("demo") == ("gguf", str(smollm2_gguf.parent), smollm2_gguf.name)
    assert source("somebody/model") == ("plain", "somebody/model", None)


def test_a_folder_is_of_one_model(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="neither a package"):
        find_model(str(tmp_path))
    made(tmp_path / "a.gguf")
    made(tmp_path / "b.gguf")
    with pytest.raises(CompileError, match=r"has 2 GGUF files: name one of them, like .*a.gguf"):
        find_model(str(tmp_path))
