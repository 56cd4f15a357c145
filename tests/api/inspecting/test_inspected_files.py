"""Sums of files, compared where one is recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.inspecting.inspected_files import file_facts
from mistralrs_onnx.inspecting.inspection import FileFacts
from mistralrs_onnx.inspecting.package_files import silent

SUM = hashlib.sha256(b"content").hexdigest()


def facts(path: Path, *, verify: bool) -> FileFacts:
    return file_facts(path, verify=verify, hashing=silent)


def test_a_file_alone_has_the_sum_that_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert facts(tmp_path / "file", verify=False) == FileFacts("file", 7, None)
    assert facts(tmp_path / "file", verify=True) == FileFacts("file", 7, SUM)


def test_the_cache_of_the_hub_names_files_by_their_sums(tmp_path: Path) -> None:
    (tmp_path / SUM).write_bytes(b"content")
    (tmp_path / "file").symlink_to(tmp_path / SUM)
    assert facts(tmp_path / "file", verify=False) == FileFacts("file", 7, SUM)
    assert facts(tmp_path / "file", verify=True) == FileFacts("file", 7, SUM, is_compared=True)
    (tmp_path / SUM).write_bytes(b"damaged")
    assert facts(tmp_path / "file", verify=True).problem == "has another sha256"


def test_a_file_of_a_package_is_held_against_the_manifest(tiny_llama, tmp_path: Path) -> None:
    package = compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "package")
    assert facts(package / "engine.onnx", verify=True).is_compared
    (package / "engine.onnx").write_bytes(b"content")
    assert facts(package / "engine.onnx", verify=True).problem == "has another sha256"
    (package / "note").write_bytes(b"content")
    assert facts(package / "note", verify=True) == FileFacts("note", 7, SUM)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    assert facts(tmp_path / "file", verify=True).problem == "is missing"


def test_whoever_waits_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    told: list[str] = []
    file_facts(tmp_path / "file", verify=True, hashing=told.append)
    assert told == ["file"]
