"""Adapters in packages: written as safetensors reads them, read as they were written, and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import read_golden
from safetensors.numpy import load_file, save_file
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder

from mistralrs_onnx.compiler.adapters.files import AdapterFiles, in_folder
from mistralrs_onnx.compiler.adapters.peft import read_files
from mistralrs_onnx.compiler.archs import find_arch
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.packaged_adapters import read_packaged, write_adapters
from mistralrs_onnx.graphs.contract import AdapterRecord, Manifest

LLAMA = read_golden()["llama"].model
ARCH = find_arch("llama")


@pytest.fixture
def files(tmp_path: Path) -> AdapterFiles:
    return in_folder(write_adapter(tmp_path / "sql", linears(LLAMA.shapes), rank=3))


def test_what_is_written_is_read_and_safetensors_reads_it_too(files: AdapterFiles, tmp_path: Path) -> None:
    expected = read_files(files, ARCH, LLAMA.shapes)
    records = write_adapters(tmp_path, [files], ARCH, LLAMA.shapes)
    assert records == {"sql": AdapterRecord("adapters/sql.safetensors", "tiny", expected.generation)}
    got = read_packaged(tmp_path / records["sql"].file)
    theirs = load_file(tmp_path / records["sql"].file)
    assert got.keys() == expected.updates.keys()
    assert len(theirs) == 2 * len(got)
    for linear, (a, b) in expected.updates.items():
        for stored in (got[linear].a, theirs[f"{linear}.lora_A"]):
            np.testing.assert_array_equal(stored, a)
        for stored in (got[linear].b, theirs[f"{linear}.lora_B"]):
            np.testing.assert_array_equal(stored, b)


@pytest.mark.parametrize("name", ["a b", "ä", ".hidden", "x" * 129])
def test_names_that_cannot_be_files_are_refused(files: AdapterFiles, tmp_path: Path, name: str) -> None:
    with pytest.raises(CompileError, match="1 to 128 letters"):
        write_adapters(tmp_path / "out", [files._replace(name=name)], ARCH, LLAMA.shapes)


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"x.lora_A": np.zeros((1, 2), np.float32)}, "must have a .lora_A and a .lora_B"),
        ({"x.lora_A": np.zeros((1, 2), np.float32), "y.lora_B": np.zeros((2, 1), np.float32)}, "no tensor x.lora_B"),
        ({"x.lora_A": np.zeros((1, 2), np.float16), "x.lora_B": np.zeros((2, 1), np.float32)}, "must be a matrix"),
        ({"x.lora_A": np.zeros(2, np.float32), "x.lora_B": np.zeros((2, 1), np.float32)}, "must be a matrix"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], complaint: str) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CompileError, match=complaint):
        read_packaged(tmp_path / "x.safetensors")


def test_packages_with_adapters_are_the_same_bytes_each_time(files: AdapterFiles, tmp_path: Path) -> None:
    model = write_folder(LLAMA, tmp_path / "tiny")
    options = CompileOptions(packaged=(files,), active=("sql",))
    packages = [compile_folder(model, tmp_path / name, options) for name in ("first", "second")]
    texts = [(package / "manifest.json").read_text() for package in packages]
    assert texts[0] == texts[1]
    manifest = Manifest.from_json(texts[0])
    assert manifest.files["adapters/sql.safetensors"].size == (packages[0] / "adapters/sql.safetensors").stat().st_size
    assert (list(manifest.adapters), manifest.active_adapters) == (["sql"], ("sql",))
