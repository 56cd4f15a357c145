"""What checkpoints of every kind say of themselves, and whether they can be compiled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden import read_golden
from tiny_ggml import write_ggml
from tiny_models import write_folder

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.inspecting.inspected_checkpoint import inspect_ggml, inspect_gguf, inspect_safetensors
from mistralrs_onnx.inspecting.inspection import TensorFacts
from mistralrs_onnx.inspecting.package_files import silent

LOOK = {"verify": False, "hashing": silent}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(read_golden()["llama"].model, tmp_path / "tiny")


def test_gguf(tiny_llama, tmp_path: Path) -> None:
    found = inspect_gguf(tiny_llama(tmp_path / "tiny.gguf", {"attn_q": "Q4_0"}).write(), **LOOK)
    facts = found.facts
    assert (facts["format"], facts["architecture"], facts["context"]) == ("GGUF v3", "llama", 256)
    assert (facts["layers"], facts["heads"], facts["key_heads"], facts["compiles"]) == (2, 4, 2, "yes")
    assert TensorFacts("blk.1.attn_q.weight", "Q4_0", (64, 64), 64 * 2 * 18) in found.tensors
    assert found.metadata["tokenizer.ggml.tokens"] == "[98]"
    json.dumps(found.to_json())


def test_why_a_checkpoint_cannot_be_compiled(tiny_llama, tmp_path: Path) -> None:
    """It is shown all the same."""
    tiny = tiny_llama(tmp_path / "tiny.gguf")
    tiny.rope_scaling = "strange"
    found = inspect_gguf(tiny.write(), **LOOK)
    assert str(found.facts["compiles"]).startswith("no: ")
    assert "strange" in str(found.facts["compiles"])
    assert (found.facts["architecture"], len(found.tensors)) == ("llama", 21)


def test_a_damaged_file(tiny_llama, tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "tiny.gguf").write()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CompileError, match="within the file"):
        inspect_gguf(path, **LOOK)


def test_ggml(tmp_path: Path) -> None:
    found = inspect_ggml(write_ggml(read_golden()["llama-mha"].model, tmp_path / "tiny.bin"), **LOOK)
    assert (found.kind, found.facts["format"], found.facts["compiles"]) == ("ggml", "ggjt v3", "yes")
    assert [file.name for file in found.files] == ["tiny.bin"]


def test_a_folder(folder: Path) -> None:
    found = inspect_safetensors(folder, **LOOK)
    assert (found.facts["architecture"], found.facts["width"], found.facts["compiles"]) == ("llama", 64, "yes")
    assert TensorFacts("lm_head.weight", "F32", (96, 64), 4 * 96 * 64) in found.tensors
    assert [file.name for file in found.files] == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_folder_without_config_or_a_file_alone(folder: Path) -> None:
    alone = inspect_safetensors(folder / "model.safetensors", verify=True, hashing=silent)
    assert dict(alone.facts) == {"format": "safetensors"}
    assert [(file.name, len(file.sha256 or "")) for file in alone.files] == [("model.safetensors", 64)]
    (folder / "config.json").unlink()
    found = inspect_safetensors(folder, **LOOK)
    assert str(found.facts["compiles"]).startswith("no: ")
    assert len(found.tensors) == len(alone.tensors)


def test_a_chat_template_is_shown(folder: Path) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert inspect_safetensors(folder, **LOOK).chat_template == "{{ messages }}"
