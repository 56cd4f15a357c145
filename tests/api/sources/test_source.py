"""Checkpoints with adapters: which are merged, which are loaded beside, and that packages are told apart by them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stub_hub
from golden import read_golden
from numpy.typing import NDArray
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder

from mistralrs_onnx.caching.cache import cached_package
from mistralrs_onnx.compiler.compile import CompileOptions, plan
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.sources.token_source import TokenSource
from mistralrs_onnx.sources.adapter_source import AdapterSource
from mistralrs_onnx.sources.source import Located, ModelSource

LLAMA = read_golden()["llama"].model
UP = "model.layers.0.mlp.up_proj.weight"
BASE = "acme/tiny"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of three adapters: one in its own folder, one beside another by its name, one that looks alike."""
    for seed, name in enumerate(("one", "two", "two0")):
        write_adapter(tmp_path / "root" / name, linears(LLAMA.shapes), seed=seed)
    two = tmp_path / "root" / "two"
    (two / "adapter_config.json").rename(tmp_path / "root" / "two.json")
    (two / "adapter_model.safetensors").rename(tmp_path / "root" / "two.safetensors")
    two.rmdir()
    return tmp_path / "root"


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    return ModelSource("plain", str(write_folder(LLAMA, tmp_path / "tiny")))


Ordering = Callable[..., Path]


@pytest.fixture
def ordering(tmp_path: Path) -> Ordering:
    def write(*order: str, preload: dict[str, str] | None = None, base: str = BASE) -> Path:
        preloads = [{"name": name, "adapter_model_id": place} for name, place in (preload or {}).items()]
        path = tmp_path / "ordering.json"
        path.write_text(
            json.dumps({"order": order, "base_model_id": base} | ({"preload_adapters": preloads} if preloads else {}))
        )
        return path

    return write


def up_of(located: Located) -> NDArray[np.float32]:
    with located.open() as checkpoint:
        weights = plan(checkpoint, located.options).weights
        return weights.matrix(UP).rows(0, 96).view(np.float32).copy()


def update_of(seed: int, tmp_path: Path) -> NDArray[np.float32]:
    from safetensors.numpy import load_file

    folder = write_adapter(tmp_path / f"again{seed}", linears(LLAMA.shapes), seed=seed)
    tensors = load_file(folder / "adapter_model.safetensors")
    prefix = f"base_model.model.{UP.removesuffix('.weight')}"
    product = tensors[f"{prefix}.lora_B.weight"] @ tensors[f"{prefix}.lora_A.weight"]
    return (8 / 4 * product).astype(np.float32)  # alpha over rank


def test_a_folder_of_peft_is_merged(plain: ModelSource, root: Path, tmp_path: Path) -> None:
    adapted = replace(plain, adapters=AdapterSource(str(root / "one"))).locate(CompileOptions())
    expected = up_of(plain.locate(CompileOptions())) + update_of(0, tmp_path)
    np.testing.assert_allclose(up_of(adapted), expected, atol=1e-6)  # float32 sums in another order
    assert adapted.adapters.loaded == {}


def test_adapters_of_the_order_are_merged(plain: ModelSource, root: Path, ordering: Ordering, tmp_path: Path) -> None:
    source = replace(plain, adapters=AdapterSource(str(root), ordering("one", "two")))
    expected = up_of(plain.locate(CompileOptions())) + update_of(0, tmp_path) + update_of(1, tmp_path)
    np.testing.assert_allclose(up_of(source.locate(CompileOptions())), expected, atol=1e-6)


def test_with_preloads_all_are_loaded_and_the_order_is_active(
    plain: ModelSource, root: Path, ordering: Ordering
) -> None:
    preload = {"three": str(root / "two0"), "two": str(root)}
    source = replace(plain, adapters=AdapterSource(str(root), ordering("one", preload=preload)))
    located = source.locate(CompileOptions())
    assert (located.options.adapters, located.adapters.active) == ((), ("one",))
    weights = {name: files.weights.relative_to(root).as_posix() for name, files in located.adapters.loaded.items()}
    assert weights == {
        "one": "one/adapter_model.safetensors",
        "three": "two0/adapter_model.safetensors",
        "two": "two.safetensors",
    }


def test_packages_depend_on_adapters_their_order_and_their_type(
    plain: ModelSource, root: Path, ordering: Ordering
) -> None:
    def package(*order: str, **options: str) -> Path:
        source = replace(plain, adapters=AdapterSource(str(root), ordering(*order)))
        return cached_package(source, CompileOptions(**options))

    packages = [cached_package(plain), package("one"), package("two"), package("one", "two"), package("two", "one")]
    packages.append(package("one", merge_dtype="f16"))
    assert len(set(packages)) == len(packages)
    assert package("one") == packages[1]
    elsewhere = AdapterSource(str(shutil.copytree(root, root.parent / "elsewhere")), ordering("one"))
    assert cached_package(replace(plain, adapters=elsewhere)) == packages[1]
    write_adapter(root / "one", linears(LLAMA.shapes), seed=9)
    assert package("one") not in packages
    with_preloads = replace(plain, adapters=AdapterSource(str(root), ordering("one", preload={"two": str(root)})))
    assert cached_package(with_preloads) == packages[0]


@pytest.mark.parametrize(
    ("order", "complaint"), [(("one", "owl"), "has no adapter owl"), ((), "names no adapters")], ids=["unknown", "none"]
)
def test_orders_that_cannot_be(plain: ModelSource, root: Path, ordering: Ordering, order: str, complaint: str) -> None:
    with pytest.raises(CompileError, match=complaint):
        replace(plain, adapters=AdapterSource(str(root), ordering(*order))).locate(CompileOptions())


def test_a_merge_dtype_without_anything_to_merge_is_refused(plain: ModelSource, root: Path, ordering: Ordering) -> None:
    preloading = replace(plain, adapters=AdapterSource(str(root), ordering("one", preload={"two": str(root)})))
    for source in (plain, preloading):
        with pytest.raises(CompileError, match="none is merged"):
            source.locate(CompileOptions(merge_dtype="f16"))


def test_another_repository_than_the_ordering_file_says_is_refused(root: Path, ordering: Ordering) -> None:
    with pytest.raises(CompileError, match="is for the base acme/tiny, the base model is acme/other"):
        ModelSource("plain", "acme/other", adapters=AdapterSource(str(root), ordering("one"))).locate(CompileOptions())


def test_of_the_hub_only_the_files_of_these_adapters_are_fetched(
    plain: ModelSource, root: Path, ordering: Ordering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    hub = stub_hub.StubHub("acme/adapters", files | {"xlora_classifier.safetensors": b"?", "one/README.md": b"?"})
    with hub.serving():
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        adapters = AdapterSource("acme/adapters", ordering("one", "two"))
        located = replace(plain, adapters=adapters, token_source=TokenSource("none")).locate(CompileOptions())
    got = [each.adapter for each in located.options.adapters]
    assert [each.weights.read_bytes() for each in got] == [
        files["one/adapter_model.safetensors"],
        files["two.safetensors"],
    ]
    snapshot = got[0].config.parents[1]
    fetched = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if not path.is_dir()}
    assert fetched == {"one/adapter_config.json", "one/adapter_model.safetensors", "two.json", "two.safetensors"}


def test_an_adapter_is_called_as_its_repository_not_as_the_snapshot(
    plain: ModelSource, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = stub_hub.StubHub("acme/sql", {path.name: path.read_bytes() for path in (root / "one").iterdir()})
    with hub.serving():
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        source = replace(plain, adapters=AdapterSource("acme/sql"), token_source=TokenSource("none"))
        located = source.locate(CompileOptions())
        emitting = replace(source, emit=True).locate(CompileOptions())
    assert [each.adapter.name for each in located.options.adapters] == ["sql"]
    assert emitting.options.emitted is not None
    assert (emitting.options.adapters, [each.name for each in emitting.options.emitted.adapters]) == ((), ["sql"])
    emitted = cached_package(replace(plain, adapters=AdapterSource(str(root / "one")), emit=True))
    assert emitted != cached_package(plain)
    assert (emitted / "adapters" / "one.onnx_adapter").is_file()
