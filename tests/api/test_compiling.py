"""Packages made by one call: the same as by the parts that it is made of, and mistakes named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder

import mistralrs_onnx
from mistralrs_onnx import CompileError
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder, compile_gguf

LLAMA = read_golden()["llama"].model


@pytest.fixture
def gguf(tiny_llama: Any, tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "tiny.gguf").write()


def manifest(package: Path) -> dict[str, Any]:
    return json.loads((package / "manifest.json").read_text())


def formats(package: Path) -> set[str]:
    return {record["type"] for record in manifest(package)["tensors"].values()}


def test_a_file_and_a_folder_become_what_the_compiler_makes_of_them(gguf: Path, tmp_path: Path) -> None:
    folder = write_folder(LLAMA, tmp_path / "llama")
    pairs = [
        (mistralrs_onnx.compile(gguf, tmp_path / "a"), compile_gguf(gguf, tmp_path / "b")),
        (mistralrs_onnx.compile(str(tmp_path), str(tmp_path / "e"), filename=gguf.name), tmp_path / "b"),
        (mistralrs_onnx.compile(folder, tmp_path / "c"), compile_folder(folder, tmp_path / "d")),
    ]
    for ours, theirs in pairs:
        assert (ours / "manifest.json").read_bytes() == (theirs / "manifest.json").read_bytes()


def test_options_reach_the_package(gguf: Path, tmp_path: Path) -> None:
    plain = mistralrs_onnx.compile(gguf, tmp_path / "plain")
    assert formats(plain) == {"F32"}
    assert "Q8_0" in formats(mistralrs_onnx.compile(gguf, tmp_path / "isq", isq="8"))
    assert "int4-16" in formats(mistralrs_onnx.compile(gguf, tmp_path / "int4", isq="int4", block_size=16))
    assert "F16" in formats(mistralrs_onnx.compile(gguf, tmp_path / "f16", dtype="f16"))
    rules = tmp_path / "map.txt"
    rules.write_text("*.mlp.* Q8_0\n")
    assert formats(mistralrs_onnx.compile(gguf, tmp_path / "map", isq_map=rules)) == {"F32", "Q8_0"}
    chat = mistralrs_onnx.compile(gguf, tmp_path / "chat", chat_template="chatml")
    assert "im_start" in (chat / "chat_template.jinja").read_text()
    assert manifest(mistralrs_onnx.compile(gguf, tmp_path / "exact", accuracy="float32"))["accuracy"] == "float32"
    expanded = mistralrs_onnx.compile(gguf, tmp_path / "expanded", isq="8", expand=True)
    assert manifest(expanded)["files"]["model.onnx"] != manifest(tmp_path / "isq")["files"]["model.onnx"]


def test_adapters_are_merged(tmp_path: Path) -> None:
    folder = write_folder(LLAMA, tmp_path / "llama")
    adapter = write_adapter(tmp_path / "adapter", linears(LLAMA.shapes))
    merged = mistralrs_onnx.compile(folder, tmp_path / "merged", lora=adapter)
    plain = mistralrs_onnx.compile(folder, tmp_path / "plain")
    weights = "model.onnx.data"
    assert manifest(merged)["files"][weights] != manifest(plain)["files"][weights]
    emitted = mistralrs_onnx.compile(folder, tmp_path / "emitted", lora=adapter, emit_onnx_adapter=True)
    assert (emitted / "adapters" / "adapter.onnx_adapter").is_file()


def test_progress_is_reported_and_packages_are_replaced_only_by_force(gguf: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    out = mistralrs_onnx.compile(gguf, tmp_path / "out", report=lambda progress: stages.append(progress.stage))
    assert list(dict.fromkeys(stages)) == ["read", "tokenizer", "draw", "write", "hash"]
    with pytest.raises(CompileError, match="exists"):
        mistralrs_onnx.compile(gguf, out)
    assert mistralrs_onnx.compile(gguf, out, force=True) == out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isq": "Q9"}, "Q9"),
        ({"block_size": 32}, "block_size 32 is of isq int4 and int8: give isq too"),
        ({"dtype": "f8"}, "dtype must be one of"),
        ({"accuracy": "int4"}, "accuracy must be int8 or float32"),
        ({"chat_template": "chatmml"}, "the nearest is chatml"),
        ({"order": "ordering.json"}, "is of adapters: give lora or xlora too"),
        ({"lora": "a", "xlora": "b"}, "cannot be in one package"),
        ({"emit_onnx_adapter": True}, "writes the adapters of lora"),
        ({"token_source": "cash"}, "Did you mean cache"),
        ({"merge_dtype": "f16"}, "none is merged"),
        ({"arch": "lama"}, "lama"),
        ({"tokenizer": "/nowhere/tokenizer.json"}, "nowhere"),
    ],
)
def test_mistakes_are_named(gguf: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        mistralrs_onnx.compile(gguf, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_packages_and_nothing_are_not_compiled(gguf: Path, tmp_path: Path) -> None:
    package = mistralrs_onnx.compile(gguf, tmp_path / "package")
    with pytest.raises(CompileError, match="is a package already"):
        mistralrs_onnx.compile(package, tmp_path / "again")
    with pytest.raises(CompileError, match="there is no file or folder"):
        mistralrs_onnx.compile(tmp_path / "nothing.gguf", tmp_path / "again")
    with pytest.raises(CompileError, match="not in"):
        mistralrs_onnx.compile("acme/nothing", tmp_path / "again", offline=True)


def test_options_of_the_compiler_are_all_reachable() -> None:
    """Those that are not of places, which the source of the model has."""
    import inspect

    ours = set(inspect.signature(mistralrs_onnx.compile).parameters)
    places = {"reading", "adapters", "xlora", "packaged", "emitted", "active", "isq"}
    assert set(CompileOptions.__dataclass_fields__) - places <= ours
