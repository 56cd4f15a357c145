"""A package is opened, held against its sums, loaded and probed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistralrs_onnx.compiler.checkpoint import Reading, open_gguf
from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.compiler.dry_run import dry_run
from mistralrs_onnx.diagnosing import package_trial
from mistralrs_onnx.diagnosing.package_trial import serving_memory, try_package
from mistralrs_onnx.runtime.package import open_package


@pytest.fixture
def package(tiny_llama, tmp_path: Path) -> Path:
    return compile_gguf(tiny_llama(tmp_path / "tiny.gguf", {"ffn_up": "Q4_0"}).write(), tmp_path / "package")


def test_a_good_package(package: Path) -> None:
    trial = try_package(package)
    assert (trial.opening, trial.loading, trial.name, trial.promised) == ("", "", "tiny", "yes")
    assert (trial.is_invariant, trial.context_length, trial.token_bytes) == (True, 256, 2 * 2 * 2 * 16 * 4)
    assert trial.size == sum(path.stat().st_size for path in package.iterdir() if path.name != "manifest.json")
    assert trial.room > 0


def test_half_the_bytes_in_float16(package: Path) -> None:
    assert 2 * try_package(package, "float16").token_bytes == try_package(package).token_bytes


def test_damage_is_found(package: Path) -> None:
    with (package / "model.onnx.data").open("r+b") as file:
        file.write(b"damage")
    assert "sha256" in try_package(package).opening
    assert "is no package" in try_package(package / "nowhere").opening


def test_a_graph_that_cannot_be_loaded(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = package / "engine.onnx"
    engine.write_bytes(b"?" * engine.stat().st_size)
    whole = open_package(package)
    monkeypatch.setattr(package_trial, "open_package", lambda path, verify: whole)
    assert "cannot load" in try_package(package).loading


def test_it_is_not_loaded_where_it_does_not_fit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_trial, "available_memory", lambda: 1000)
    trial = try_package(package)
    assert (trial.needed > trial.available, trial.seconds) == (True, 0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_memory_is_what_a_dry_run_says(tiny_llama, tmp_path: Path, tied: bool) -> None:
    tiny = tiny_llama(tmp_path / "tiny.gguf", {"ffn_up": "Q4_0", "token_embd": "Q8_0"})
    tiny.tied = tied
    with open_gguf(tiny.write(), Reading()) as checkpoint:
        estimated = dry_run(checkpoint, CompileOptions(), available=0).runtime_memory
    manifest = open_package(compile_gguf(tiny.path, tmp_path / "package")).manifest
    assert serving_memory(manifest) == estimated
