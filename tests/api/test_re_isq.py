"""A checkpoint in another type, from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.model import LoadOptions
from mistralrs_onnx.re_isq import re_isq
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.sources.source import ModelSource


@pytest.fixture
def source(tiny_llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    tiny_llama(tmp_path / "tiny.gguf").write()
    return ModelSource("gguf", str(tmp_path), "tiny.gguf")


def test_the_weights_have_the_type_that_was_asked_for(source: ModelSource) -> None:
    loading = LoadOptions(EngineOptions(max_seqs=1, max_model_len=128))
    with re_isq("8", source, loading=loading) as model:
        assert model.manifest.tensors["model.layers.0.mlp.up_proj.weight"].type == "Q8_0"
        assert model.context_length == 128


def test_an_unknown_type_lists_those_that_there_are(source: ModelSource) -> None:
    with pytest.raises(CompileError, match=r"'Q4_9' is unknown, did you mean .*Known: Q4_0, Q4_1"):
        re_isq("Q4_9", source)
