"""Packages are held against their manifest before anything of them is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.graphs.contract import MANIFEST
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.package import open_package


@pytest.fixture(scope="module")
def made(tiny_llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return compile_gguf(tiny_llama(folder / "tiny.gguf").write(), folder / "package")


@pytest.fixture
def package(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "package"))


def test_a_good_package_opens(package: Path) -> None:
    opened = open_package(package, verify=True)
    assert opened.manifest.architecture == "llama"
    assert opened.engine("float16").name == "engine-kv-float16.onnx"
    assert opened.chat_template() is None


def test_a_folder_without_manifest_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"has no manifest\.json"):
        open_package(tmp_path)
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(PackageError, match="is a file, and a package is a folder: make one with mistralrs-compile"):
        open_package(file)


def test_a_shorter_file_is_always_found(package: Path) -> None:
    data = package / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(PackageError, match=r"model\.onnx\.data has \d+ bytes, the manifest says \d+"):
        open_package(package)


def test_a_changed_byte_is_found_when_verifying(package: Path) -> None:
    data = package / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    open_package(package)
    with pytest.raises(PackageError, match="sha256"):
        open_package(package, verify=True)


def test_names_that_lead_out_of_the_folder_are_refused(package: Path) -> None:
    manifest = package / MANIFEST
    manifest.write_text(manifest.read_text().replace('"tokenizer.json"', '"../package/tokenizer.json"'))
    with pytest.raises(PackageError, match="inside the package"):
        open_package(package)


def test_links_are_refused(package: Path, tmp_path: Path) -> None:
    tokenizer = package / "tokenizer.json"
    tokenizer.rename(tmp_path / "elsewhere.json")
    tokenizer.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(PackageError, match="inside the package"):
        open_package(package)


@pytest.mark.parametrize(("key", "graph"), [("float32", "engine.onnx"), ("engine", "engine-cuda.onnx")])
def test_graphs_that_the_manifest_does_not_list_are_refused(package: Path, key: str, graph: str) -> None:
    manifest = package / MANIFEST
    manifest.write_text(manifest.read_text().replace(f'"{key}": "{graph}"', f'"{key}": "../{graph}"'))
    with pytest.raises(PackageError, match=rf"does not list \.\./{graph}"):
        open_package(package)


def test_packages_of_before_have_no_graph_for_cuda(package: Path) -> None:
    manifest = package / MANIFEST
    without = json.loads(manifest.read_text())
    del without["cuda"]
    manifest.write_text(json.dumps(without))
    with pytest.raises(PackageError, match=r"has no graph for CUDA, it was made before .*compile the model again"):
        open_package(package).cuda()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1}', '{"schema": 2}', "\x00"])
def test_a_manifest_that_is_none(package: Path, text: str) -> None:
    (package / MANIFEST).write_text(text)
    with pytest.raises(PackageError, match=r"manifest.*compile the model again"):
        open_package(package)
