from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistralrs_onnx.compiler.checkpoints.metadata import Metadata
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.tokenizer.gguf import gguf_files, tokenizer_files

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
METADATA = Metadata(
    {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "from next year",
        "tokenizer.ggml.tokens": ["a", "b", "</s>", "  ", "[PAD4]", "spare"],
        "tokenizer.ggml.token_type": np.array([NORMAL, NORMAL, CONTROL, USER_DEFINED, NORMAL, UNUSED], np.int32),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "of the GGUF file",
    }
)


def tokenizer_json(folder: Path, texts: dict[str, int], **changes: Any) -> Path:
    added = [{"id": 2, "content": "</s>", "special": True}, {"id": 3, "content": "▁▁", "special": False}]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "added_tokens": [token | flags for token in added],
        "model": {"type": "BPE", "vocab": texts, "merges": []},
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def test_it_beats_what_the_file_has(tmp_path: Path) -> None:
    path = tokenizer_json(tmp_path, {"a": 0, "b": 1})
    files = tokenizer_files(METADATA, external=path)
    assert files["tokenizer.json"] == path.read_bytes()
    assert files["chat_template.jinja"] == b"of the GGUF file"


def test_a_folder_also_brings_its_template(tmp_path: Path) -> None:
    tokenizer_json(tmp_path, {"a": 0, "b": 1})
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "of the folder"}', encoding="utf-8")
    assert tokenizer_files(METADATA, external=tmp_path)["chat_template.jinja"] == b"of the folder"
    assert tokenizer_files(METADATA, external=tmp_path, template="given")["chat_template.jinja"] == b"given"


def test_a_folder_also_names_ends(tmp_path: Path) -> None:
    tokenizer_json(tmp_path, {"a": 0, "b": 1})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}', encoding="utf-8")
    assert gguf_files(METADATA, external=tmp_path).ids.eos == (2, 1)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": 0, "c": 1}, "token 1 is 'c' in .*tokenizer.json, but 'b' in the checkpoint"),
        ({"a": 0}, "tokenizer.json lacks token 1, which is 'b' in the checkpoint"),
        ({"a": 0, "b": 1, "x": 6}, r"has token 6 \('x'\), but the checkpoint only 6"),
    ],
)
def test_another_vocabulary_is_refused(tmp_path: Path, texts: dict[str, int], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        tokenizer_files(METADATA, external=tokenizer_json(tmp_path, texts))
