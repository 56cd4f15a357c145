"""Every difference between a package and its manifest is found."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mistralrs_onnx.graphs.contract import FileRecord, KVGeometry, Manifest
from mistralrs_onnx.inspecting.package_files import check_files
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.package import read_manifest

TEXT = b"content"


def manifest(*names: str) -> Manifest:
    record = FileRecord(len(TEXT), hashlib.sha256(TEXT).hexdigest())
    return Manifest(
        compiler="test",
        name="tiny",
        architecture="llama",
        vocab_size=10,
        context_length=20,
        rope_rows=30,
        rope_switch=None,
        grouped_decode=True,
        kv=KVGeometry(1, 1, 8),
        engines={},
        lora_engines={},
        lora=(),
        xlora=None,
        accuracy="int8",
        row_multiple=1,
        invariant="yes",
        bos_token_id=None,
        eos_token_ids=(1,),
        tensors={},
        files=dict.fromkeys(names, record),
    )


def problems(folder: Path, *names: str, verify: bool) -> list[str | None]:
    return [state.problem for state in check_files(folder, manifest(*names), verify=verify)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("good", "long", "other"):
        (tmp_path / name).write_bytes(TEXT)
    (tmp_path / "long").write_bytes(TEXT + TEXT)
    (tmp_path / "other").write_bytes(TEXT[::-1])
    return tmp_path


def test_all_differences_are_found_and_sums_only_when_asked(folder: Path) -> None:
    names = ("good", "long", "none", "other")
    found = [None, "has 14 bytes, not 7", "is missing"]
    assert problems(folder, *names, verify=False) == [*found, None]
    assert problems(folder, *names, verify=True) == [*found, "has another sha256"]


def test_nothing_outside_the_folder_is_read(folder: Path) -> None:
    package = folder / "package"
    package.mkdir()
    (package / "link").symlink_to(folder / "good")
    told: list[str] = []
    states = check_files(package, manifest("../good", str(folder / "good"), "link"), verify=True, hashing=told.append)
    assert {state.problem for state in states} == {"leads out of the package"}
    assert told == []


def test_whoever_waits_is_told_what_is_read(folder: Path) -> None:
    told: list[str] = []
    list(check_files(folder, manifest("good", "none", "other"), verify=True, hashing=told.append))
    assert told == ["good", "other"]


def test_a_folder_without_a_manifest_or_with_a_strange_one(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"is no package: it has no manifest\.json"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(PackageError, match="cannot be used: not a manifest"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest("good").to_json())
    assert read_manifest(tmp_path) == manifest("good")
