"""What a path is, is found out."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import read_golden
from tiny_ggml import write_ggml
from tiny_models import write_folder

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.inspecting.inspecting import inspect_path


@pytest.fixture(scope="module")
def places(tiny_llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind."""
    root = tmp_path_factory.mktemp("places")
    compile_gguf(tiny_llama(root / "tiny.gguf").write(), root / "package")
    write_folder(read_golden()["llama"].model, root / "folder")
    write_ggml(read_golden()["llama-mha"].model, root / "tiny.bin")
    (root / "odd").mkdir()
    (root / "odd" / "tiny.gguf").write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("package", "package"),
        ("package/manifest.json", "package"),
        ("package/engine.onnx", "graph"),
        ("tiny.gguf", "gguf"),
        ("tiny.bin", "ggml"),
        ("folder", "safetensors"),
        ("folder/model.safetensors", "safetensors"),
    ],
)
def test_every_kind_is_recognized(places: Path, name: str, kind: str) -> None:
    assert inspect_path(places / name).kind == kind


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("package/tokenizer.json", "is a file of a package: inspect the folder, .*package"),
        ("folder/config.json", "is none of these"),
        ("odd", r"is no package, .*: name the file in it that you mean, such as .*odd/tiny\.gguf"),
        (".", r"is no package, for it has no manifest\.json"),
        ("none", "cannot be read: No such file"),
        ("odd/tiny.gguf", "at least 24 bytes"),
    ],
)
def test_what_cannot_be_inspected_is_refused_with_advice(places: Path, name: str, complaint: str) -> None:
    with pytest.raises(CompileError, match=complaint):
        inspect_path(places / name)
