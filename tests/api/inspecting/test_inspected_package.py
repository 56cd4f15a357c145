"""What a package says of itself, damaged or not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.graphs.contract import AdapterRecord, Manifest, XLoraRecord
from mistralrs_onnx.inspecting.inspected_package import inspect_package, stored_bytes
from mistralrs_onnx.inspecting.inspection import Inspection, TensorFacts
from mistralrs_onnx.inspecting.package_files import silent
from mistralrs_onnx.runtime.errors import PackageError


@pytest.fixture(scope="module")
def made(tiny_llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    file = tiny_llama(folder / "tiny.gguf", {"attn_q": "Q4_0"}).write()
    return compile_gguf(file, folder / "package")


@pytest.fixture
def package(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "package")


def inspected(folder: Path, *, verify: bool = False) -> Inspection:
    return inspect_package(folder, verify=verify, hashing=silent)


def change(folder: Path, **values: object) -> None:
    manifest = Manifest.from_json((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(replace(manifest, **values).to_json())


def test_facts_are_those_of_the_manifest(package: Path) -> None:
    facts = inspected(package).facts
    assert (facts["name"], facts["architecture"], facts["context"], facts["layers"]) == ("tiny", "llama", 256, 2)
    assert (facts["token_bytes_float32"], facts["token_bytes_float16"]) == (2 * 2 * 2 * 16 * 4, 2 * 2 * 2 * 16 * 2)
    assert (facts["eos_tokens"], facts["activations"], facts["invariant"]) == ((97,), "int8", "yes")
    assert (facts["adaptable_linears"], facts["adapters"]) == (14, None)


def test_adapters_and_x_lora(package: Path) -> None:
    records = {"sql": AdapterRecord("adapters/sql.safetensors", "base", "1"), "poem": AdapterRecord("b", None, "2")}
    xlora = XLoraRecord({"float32": "engine.onnx"}, ("x", "y"), 3, (1.0, 1.0))
    change(package, adapters=records, active_adapters=("poem",), xlora=xlora)
    facts = inspected(package).facts
    assert facts["adapters"] == ("sql of base", "poem, active")
    assert facts["xlora"] == "3 sets of scalings of x, y"


def test_tensors_have_the_types_that_they_are_kept_as(package: Path) -> None:
    tensors = {tensor.name: tensor for tensor in inspected(package).tensors}
    query = "model.layers.0.self_attn.q_proj.weight"
    assert tensors[query] == TensorFacts(query, "Q4_0", (64, 64), 64 * 2 * 18)
    assert tensors["model.norm.weight"].num_bytes == 4 * 64


def test_graphs_come_in_order_and_files_with_their_sums(package: Path) -> None:
    found = inspected(package, verify=True)
    assert [graph.file for graph in found.graphs][:3] == ["model.onnx", "engine.onnx", "engine-kv-float16.onnx"]
    assert [graph.file for graph in found.graphs][-2:] == ["engine-cuda.onnx", "slots-cuda.onnx"]
    assert {file.name for file in found.files} == {path.name for path in package.iterdir()} - {"manifest.json"}
    assert all(file.is_compared and len(file.sha256 or "") == 64 for file in found.files)
    assert found.problems == []


def test_a_damaged_package_is_shown_as_far_as_it_can_be(package: Path) -> None:
    (package / "engine.onnx").write_bytes(b"damaged")
    (package / "model.onnx.data").unlink()
    found = inspected(package)
    assert sorted(problem.split(" ")[0] for problem in found.problems) == ["engine.onnx", "model.onnx.data"]
    assert "engine.onnx" not in [graph.file for graph in found.graphs]
    assert found.graphs


def test_weights_are_not_read(package: Path) -> None:
    """A file of the same size that holds something else is as good."""
    size = (package / "model.onnx.data").stat().st_size
    (package / "model.onnx.data").write_bytes(bytes(size))
    assert inspected(package).problems == []
    assert inspected(package, verify=True).problems == ["model.onnx.data has another sha256"]


@pytest.mark.parametrize(
    ("kind", "num_bytes"), [("F16", 512), ("BF16", 512), ("F32", 1024), ("Q4_K", 144), ("int4-32", 8 * 18)]
)
def test_bytes_of_every_kind_of_format(kind: str, num_bytes: int) -> None:
    assert stored_bytes(kind, (1, 256)) == num_bytes


def test_a_type_of_another_version() -> None:
    with pytest.raises(PackageError, match="'Q9_9', which this version does not know"):
        stored_bytes("Q9_9", (1, 256))
