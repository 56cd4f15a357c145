"""Adapters beside a loaded model: which may be loaded, what is refused, and that a model of another type keeps them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_gguf import write_gguf
from tiny_models import write_folder

from mistralrs_onnx.adapters import AdapterOptions, Adapters
from mistralrs_onnx.compiler.adapters.files import in_folder
from mistralrs_onnx.compiler.adapters.merge import ToMerge
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder, compile_gguf
from mistralrs_onnx.graphs.contract import Manifest
from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.re_isq import re_isq
from mistralrs_onnx.runtime.adapter_registry import AdapterCaps, Part
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.errors import PackageError, RequestError
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.sources.source import ModelSource

LLAMA = read_golden()["llama"].model
ENGINE = EngineOptions(max_seqs=2, max_model_len=64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(LLAMA, tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_folder(checkpoint, tmp_path_factory.mktemp("package") / "tiny")


@pytest.fixture(scope="module")
def manifest(package: Path) -> Manifest:
    return open_package(package).manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("sql", "poem")):
        write_adapter(tmp_path / "root" / name, linears(LLAMA.shapes), seed=seed)
    write_adapter(tmp_path / "outside", linears(LLAMA.shapes), seed=7)
    return tmp_path / "root"


@pytest.fixture
def adapters(manifest: Manifest, root: Path) -> Adapters:
    return Adapters(manifest, AdapterOptions({"old": root / "sql"}, root=root, caps=AdapterCaps(count=3)))


def names(adapters: Adapters) -> list[str]:
    return [each.name for each in adapters.loaded()]


@pytest.mark.parametrize("form", ["{}", "./{}/", "../root/{}", "ROOT/{}"])
def test_folders_of_the_root_are_loaded(adapters: Adapters, root: Path, form: str) -> None:
    loaded = adapters.load("new", form.format("poem").replace("ROOT", str(root)))
    assert (loaded.name, loaded.rank, names(adapters)) == ("new", 4, ["old", "new"])


def test_links_inside_the_root_are_followed_and_others_not(adapters: Adapters, root: Path) -> None:
    (root / "inside").symlink_to(root / "poem")
    (root / "link").symlink_to(root.parent / "outside")
    assert adapters.load("new", "inside").rank == 4
    with pytest.raises(RequestError, match="is outside of the folder") as caught:
        adapters.load("bad", "link")
    assert (caught.value.status, caught.value.code) == (403, "path_not_allowed")


def test_a_file_that_is_a_link_out_of_the_root_is_not_followed(adapters: Adapters, root: Path) -> None:
    weights = root / "poem" / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to(root.parent / "outside" / "adapter_model.safetensors")
    with pytest.raises(RequestError, match="leads out of") as caught:
        adapters.load("bad", "poem")
    assert caught.value.code == "invalid_adapter"


@pytest.mark.parametrize("path", ["..", "../outside", "/etc", "sql/../../outside", "/"])
def test_what_lies_elsewhere_is_not_read(adapters: Adapters, path: str) -> None:
    with pytest.raises(RequestError) as caught:
        adapters.load("bad", path)
    assert (caught.value.status, caught.value.code, names(adapters)) == (403, "path_not_allowed", ["old"])


@pytest.mark.parametrize("path", ["nothing", "sql/adapter_config.json", "a\0b", "x" * 300, "x/" * 2000, "loop"])
def test_what_is_no_folder_is_not_found(adapters: Adapters, root: Path, path: str) -> None:
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(RequestError) as caught:
        adapters.load("bad", path)
    assert (caught.value.status, caught.value.code, names(adapters)) == (404, "adapter_path_not_found", ["old"])
    assert str(root) not in str(caught.value)


def test_where_the_root_is_is_not_told(adapters: Adapters, root: Path) -> None:
    os.remove(root / "poem" / "adapter_config.json")
    for path, name in (("poem", "poem"), (".", "the folder of adapters")):
        with pytest.raises(RequestError, match=rf"adapter 'bad': {name} has no file adapter_config\.json") as caught:
            adapters.load("bad", path)
        assert str(root.parent) not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a b", "ä", "x" * 129, "a\n", "default", "tiny"])
def test_names_that_requests_could_not_use(adapters: Adapters, manifest: Manifest, root: Path, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        adapters.load(name, "poem")
    assert (caught.value.status, caught.value.param, names(adapters)) == (400, "lora_name", ["old"])
    with pytest.raises(PackageError):
        Adapters(manifest, AdapterOptions({name: root / "poem"}))


def test_a_name_is_taken_until_it_is_unloaded_or_replaced(adapters: Adapters) -> None:
    before = adapters.loaded()[0].generation
    with pytest.raises(RequestError, match="load_inplace") as caught:
        adapters.load("old", "poem")
    assert (caught.value.status, caught.value.code) == (400, "adapter_exists")
    assert adapters.load("old", "poem", replace=True).generation != before
    adapters.unload("old")
    assert adapters.load("old", "sql").generation == before


def test_caps_hold(manifest: Manifest, root: Path) -> None:
    def load_with(**caps: int) -> None:
        some = Adapters(manifest, AdapterOptions({"old": root / "sql"}, root=root, caps=AdapterCaps(**caps)))
        some.load("new", "poem")

    with pytest.raises(RequestError, match="1 adapters are loaded, which is all this server takes"):
        load_with(count=1)
    with pytest.raises(PackageError, match="rank"):
        load_with(rank=3)
    with pytest.raises(PackageError, match="bytes"):
        load_with(num_bytes=1000)
    load_with(count=2, rank=4)


def test_without_a_root_nothing_is_loaded_later(manifest: Manifest, root: Path) -> None:
    with pytest.raises(RequestError, match="--adapter-root") as caught:
        Adapters(manifest, AdapterOptions({"old": root / "sql"})).load("new", str(root / "poem"))
    assert (caught.value.status, caught.value.code) == (403, "loading_disabled")


def test_folders_that_cannot_be_loaded_at_the_start_are_named(manifest: Manifest, root: Path) -> None:
    for options, complaint in (
        (AdapterOptions({"a": root}), "adapter 'a': .*has no file adapter_config.json"),
        (AdapterOptions(root=root / "nothing"), "no such folder"),
        (AdapterOptions({"a": root / "sql"}, active=("b",)), "'b' does not exist"),
    ):
        with pytest.raises(PackageError, match=complaint):
            Adapters(manifest, options)


def answer(model: Model, **how: Any) -> list[int]:
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    return [token for output in model.engine.generate([5, 9, 3], params, **how) for token in output.token_ids]


@pytest.fixture
def source(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSource:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    return ModelSource("plain", str(checkpoint))


def test_a_model_of_another_type_keeps_all_adapters(package: Path, root: Path, source: ModelSource) -> None:
    loading = LoadOptions(ENGINE, adapters=AdapterOptions({"old": root / "sql"}, root=root))
    with load(package, loading) as first:
        assert first.adapters is not None
        first.adapters.load("new", "poem")
        first.adapters.activate(["new"])
        with re_isq("Q8_0", source, loading=LoadOptions(ENGINE), adapters=first.adapters) as second:
            assert second.adapters is first.adapters
            assert second.manifest.tensors["model.layers.0.mlp.up_proj.weight"].type == "Q8_0"
            adapter = second.adapters.select(None)
            assert adapter is not None
            assert adapter.name == "new"
            assert answer(second, adapter=adapter) != answer(second)
            first.adapters.load("late", "sql")
            assert [each.name for each in second.adapters.loaded()] == ["old", "new", "late"]


def test_adapters_of_another_model_are_not_taken_over(
    manifest: Manifest, root: Path, tmp_path: Path, tiny_llama: Any
) -> None:
    other = compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "other", CompileOptions())
    options = AdapterOptions(root=root)
    with pytest.raises(PackageError, match="of another model"):
        load(other, LoadOptions(ENGINE, adapters=options), Adapters(manifest, options))


def test_weights_of_adapters_count(package: Path, root: Path) -> None:
    """Twice an adapter, and the adapter twice, are the same; half of it is another."""
    with load(package, LoadOptions(ENGINE, adapters=AdapterOptions({"sql": root / "sql"}))) as model:
        assert model.adapters is not None

        def said(*parts: Part) -> list[int]:
            assert model.adapters is not None
            return answer(model, adapter=model.adapters.select(parts))

        assert said() == answer(model)
        assert said(Part("sql", 0.0)) == answer(model)
        assert said(Part("sql", 2.0)) == said(Part("sql"), Part("sql"))
        assert said(Part("sql")) not in (said(), said(Part("sql", -1.0)))


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_merged_and_loaded_adapters_say_the_same(root: Path, tmp_path: Path, form: str) -> None:
    """In GGUF the rows of q and k lie in another order than adapters know them."""
    if form == "gguf":
        place, compile_it = write_gguf(LLAMA, tmp_path / "tiny.gguf"), compile_gguf
    else:
        place, compile_it = write_folder(LLAMA, tmp_path / "tiny"), compile_folder
    merging = CompileOptions(adapters=(ToMerge(in_folder(root / "sql")), ToMerge(in_folder(root / "poem"), 0.5)))
    beside = LoadOptions(ENGINE, adapters=AdapterOptions({name: root / name for name in ("sql", "poem")}))
    with load(compile_it(place, tmp_path / "merged", merging), LoadOptions(ENGINE)) as merged:
        said = answer(merged)
    with load(compile_it(place, tmp_path / "base"), beside) as base:
        assert base.adapters is not None
        both = base.adapters.select([Part("sql"), Part("poem", 0.5)])
        assert answer(base, adapter=both) == said != answer(base)


@pytest.fixture(scope="module")
def carrying(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with two adapters, of which one is active."""
    folder = tmp_path_factory.mktemp("carrying")
    packaged = [
        in_folder(write_adapter(folder / name, linears(LLAMA.shapes), seed=seed))
        for seed, name in enumerate(("sql", "poem"))
    ]
    return compile_folder(checkpoint, folder / "package", CompileOptions(packaged=tuple(packaged), active=("poem",)))


def test_adapters_that_a_package_carries_are_loaded_with_it(carrying: Path, package: Path, root: Path) -> None:
    modules = AdapterOptions({"mine": root / "sql", "yours": root / "poem"}, active=("yours",))
    with load(carrying, LoadOptions(ENGINE, verify=True)) as model:
        assert model.adapters is not None
        assert (names(model.adapters), model.adapters.active) == (["sql", "poem"], ("poem",))
        said = answer(model, adapter=model.adapters.select(None))
    with load(package, LoadOptions(ENGINE, adapters=modules)) as other:
        assert other.adapters is not None
        assert answer(other, adapter=other.adapters.select(None)) == said != answer(other)


def test_adapters_join_those_that_a_package_carries(carrying: Path, root: Path) -> None:
    options = AdapterOptions({"mine": root / "sql"}, active=("mine",))
    with load(carrying, LoadOptions(ENGINE, adapters=options)) as model:
        assert model.adapters is not None
        assert (names(model.adapters), model.adapters.active) == (["sql", "poem", "mine"], ("mine",))
    with pytest.raises(PackageError, match="carries an adapter sql: give yours another name"):
        load(carrying, LoadOptions(ENGINE, adapters=AdapterOptions({"sql": root / "sql"})))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("adapters/sql.safetensors", "adapters/../../outside.safetensors"),
        ("adapters/sql.safetensors", "others/sql.safetensors"),
        ("adapters/sql.safetensors", "adapters/more/sql.safetensors"),
        ("adapters/sql.safetensors", "/etc/passwd"),
    ],
)
def test_adapters_of_packages_lie_in_one_folder(carrying: Path, tmp_path: Path, before: str, after: str) -> None:
    package = Path(shutil.copytree(carrying, tmp_path / "package"))
    manifest = package / "manifest.json"
    for name in ("outside.safetensors", "package/others/sql.safetensors", "package/adapters/more/sql.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(package / before, tmp_path / name)
    manifest.write_text(manifest.read_text().replace(f'"{before}"', f'"{after}"'))
    with pytest.raises(PackageError, match="must be a file inside the package"):
        open_package(package)


def test_files_of_carried_adapters_are_held_against_the_manifest(carrying: Path, tmp_path: Path) -> None:
    package = Path(shutil.copytree(carrying, tmp_path / "package"))
    file = package / "adapters" / "sql.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    open_package(package)
    with pytest.raises(PackageError, match=r"adapters/sql\.safetensors has sha256"):
        open_package(package, verify=True)
    file.write_bytes(content[:-1])
    with pytest.raises(PackageError, match=r"adapters/sql\.safetensors has \d+ bytes"):
        open_package(package)
    (package / "adapters").rename(tmp_path / "adapters")
    (package / "adapters").symlink_to(tmp_path / "adapters")
    with pytest.raises(PackageError, match="must be a file inside the package"):
        open_package(package)


def test_carried_adapters_have_a_file_of_the_package(carrying: Path, tmp_path: Path) -> None:
    package = Path(shutil.copytree(carrying, tmp_path / "package"))
    manifest = package / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"file": "adapters/sql.safetensors"', '"file": "../x"'))
    with pytest.raises(PackageError, match=r"does not list \.\./x"):
        open_package(package)
