"""X-LoRA of folders and of the hub: what is fetched, and that packages are told apart by all that it is made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from golden import read_golden
from stub_hub import StubHub
from tiny_adapters import write_adapter
from tiny_models import write_folder
from tiny_xlora import Layout, TinyXLora, write_xlora
from xlora_serving import llama_modules

from mistralrs_onnx.caching.cache import cached_package
from mistralrs_onnx.compiler.adapters.xlora import ToMix
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.sources.token_source import TokenSource
from mistralrs_onnx.sources.source import ModelSource
from mistralrs_onnx.sources.xlora_source import XLoraSource

LLAMA = read_golden()["llama"].model
MODULES = llama_modules(LLAMA.config)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
HEADS = {"xlora": ("xlora_config.json", "xlora_classifier.safetensors"), "peft": ADAPTER}


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    return ModelSource("plain", str(write_folder(LLAMA, tmp_path / "tiny")))


def written(folder: Path, layout: Layout = "xlora") -> TinyXLora:
    return write_xlora(folder, MODULES, LLAMA.config["hidden_size"], layout, base="acme/tiny")


def retold(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_packages_depend_on_all_that_an_xlora_is_made_of(plain: ModelSource, tmp_path: Path) -> None:
    xlora = written(tmp_path / "xlora")
    elsewhere = write_adapter(tmp_path / "elsewhere" / "third", MODULES, rank=6, seed=20)

    def package(**places: Path) -> Path:
        return cached_package(replace(plain, xlora=XLoraSource(str(xlora.folder), xlora.ordering, places)))

    found = [cached_package(plain), package(), package(third=elsewhere)]
    assert package() == found[1]
    retold(xlora.folder / "xlora_config.json", lambda config: config.update(softmax_temperature=0.5))
    found.append(package())
    other = write_xlora(tmp_path / "other", MODULES, LLAMA.config["hidden_size"], seed=7)
    shutil.copy(other.folder / "xlora_classifier.safetensors", xlora.folder)
    found.append(package())
    write_adapter(xlora.folder / "second", MODULES, rank=5, seed=21)
    found.append(package())
    retold(xlora.ordering, lambda ordering: ordering.update(order=["second", "first", "third"]))
    found.append(package())
    write_adapter(elsewhere, MODULES, rank=6, seed=22)
    found.append(package(third=elsewhere))
    assert len(set(found)) == len(found)
    moved = shutil.copytree(xlora.folder, tmp_path / "moved")
    (moved / ".git").mkdir()
    (moved / ".git" / "index").touch()
    there = XLoraSource(str(moved), moved / xlora.ordering.name)
    assert cached_package(replace(plain, xlora=there)) == found[-2]


@pytest.mark.parametrize("layout", ["xlora", "peft"])
def test_of_the_hub_only_what_is_needed_is_fetched(
    layout: Layout, plain: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter may lie in a folder of another name, as the config says; one that lies here is not fetched."""
    xlora = written(tmp_path / "xlora", layout)
    (xlora.folder / "second").rename(xlora.folder / "renamed")
    paths = {"first": "", "second": "made/renamed", "third": "made/third"}
    retold(xlora.folder / HEADS[layout][0], lambda config: config.update(adapters=paths))
    third = Path(shutil.copytree(xlora.folder / "third", tmp_path / "third"))
    files = {path.relative_to(xlora.folder).as_posix(): path.read_bytes() for path in xlora.folder.rglob("*.*")}
    others = dict.fromkeys(
        ["model.safetensors", "config.json", "first/README.md", *(f"else/{n}" for n in ADAPTER)], b"?"
    )
    moved = {"1/adapter_model.safetensors"}  # where PEFT puts a part of its classifier
    hub = StubHub("acme/xlora", files | others | dict.fromkeys(moved, third.joinpath(ADAPTER[1]).read_bytes()))
    source = replace(
        plain, xlora=XLoraSource("acme/xlora", adapters={"third": third}), token_source=TokenSource("none")
    )
    with hub.serving():
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        located = source.locate(CompileOptions())
        mix = located.options.xlora
        assert isinstance(mix, ToMix)
        fetched = {path.relative_to(mix.folder).as_posix() for path in mix.folder.rglob("*") if not path.is_dir()}
        needed = {*HEADS[layout], *(moved if layout == "peft" else ())}
        assert fetched == needed | {*(f"{folder}/{name}" for folder in ("first", "renamed") for name in ADAPTER)}
        package = cached_package(source)
    assert cached_package(replace(source, offline=True)) == package
    here = XLoraSource(str(xlora.folder), adapters={"third": third})
    shutil.rmtree(xlora.folder / "third")
    (xlora.folder / "ordering.json").unlink(missing_ok=True)
    if layout == "peft":
        (xlora.folder / "1").mkdir()
        shutil.copy(third / ADAPTER[1], xlora.folder / "1")
    assert cached_package(replace(source, xlora=here)) == package


def test_a_repository_that_is_none_is_named(
    plain: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = StubHub("acme/owl", {"README.md": b"?"})
    with hub.serving():
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        with pytest.raises(CompileError, match=r"acme/owl .* holds nothing of an X-LoRA \(.*xlora_config"):
            replace(plain, xlora=XLoraSource("acme/owl"), token_source=TokenSource("none")).locate(CompileOptions())


def test_another_repository_than_the_ordering_file_says_is_refused(tmp_path: Path) -> None:
    xlora = written(tmp_path / "xlora")
    source = ModelSource("plain", "acme/other", xlora=XLoraSource(str(xlora.folder), xlora.ordering))
    with pytest.raises(CompileError, match="is for the base acme/tiny, the base model is acme/other"):
        source.locate(CompileOptions())
