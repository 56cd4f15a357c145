"""Packages are found again as long as what they were made from, and how, is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mistralrs_onnx.caching.cache import cached_package
from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.sources.source import ModelSource


@pytest.fixture
def source(tiny_llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    tiny_llama(tmp_path / "tiny.gguf").write()
    return ModelSource("gguf", str(tmp_path), "tiny.gguf")


def test_a_second_time_nothing_is_compiled(source: ModelSource) -> None:
    first = cached_package(source)
    made = (first / "manifest.json").stat().st_mtime_ns
    assert cached_package(source) == first
    assert (first / "manifest.json").stat().st_mtime_ns == made


def test_another_file_or_option_is_another_package(source: ModelSource, tiny_llama, tmp_path: Path) -> None:
    options = [CompileOptions(), CompileOptions(isq=Isq("Q8_0")), CompileOptions(reading=Reading(pre="gpt-2"))]
    found = {cached_package(source, each) for each in options}
    tiny = tiny_llama(tmp_path / "tiny.gguf")
    tiny.tied = True
    tiny.write()
    assert len(found | {cached_package(source)}) == 4


def test_a_checkpoint_that_is_not_there_is_named(source: ModelSource) -> None:
    with pytest.raises(CompileError, match=r"other\.gguf: no such file"):
        cached_package(replace(source, filename="other.gguf"))
