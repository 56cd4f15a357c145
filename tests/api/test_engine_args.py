"""What is said of an engine, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder

from mistralrs_onnx import Architecture, CompileError, EngineArgs, EngineOptions, LoadOptions, PackageError, Which
from mistralrs_onnx.adapters import AdapterOptions


def test_what_is_said_goes_before_the_options() -> None:
    options = LoadOptions(EngineOptions(max_seqs=2, prefill_chunk=64), num_threads=1)
    said = EngineArgs("m", max_model_len=99, enable_prefix_caching=False, options=options).load_options()
    engine = EngineOptions(max_seqs=2, prefill_chunk=64, max_model_len=99, prefix_cache=False)
    assert said == LoadOptions(engine, num_threads=1)
    assert EngineArgs("m", options=options).load_options() == options
    assert EngineArgs("m", max_num_seqs=3).load_options().engine.max_seqs == 3
    on_card = LoadOptions(device="cuda:1")
    assert [EngineArgs("m", device=said, options=on_card).load_options().device for said in (None, "cpu")] == [
        "cuda:1",
        "cpu",
    ]


def test_any_number_may_wait_unless_options_say_otherwise() -> None:
    assert EngineArgs("m").load_options().engine.max_queue > 10**6
    assert EngineArgs("m", options=LoadOptions()).load_options().engine.max_queue == EngineOptions().max_queue


def test_adapters_join_those_of_the_options() -> None:
    given = AdapterOptions({"one": Path("1")}, active=("one",))
    said = EngineArgs("m", adapters={"two": "~/2"}, options=LoadOptions(adapters=given)).load_options().adapters
    assert said == AdapterOptions({"one": Path("1"), "two": Path("~/2").expanduser()}, active=("one",))
    assert EngineArgs("m").load_options().adapters is None


@pytest.mark.parametrize("changes", [{"device": "cuda"}, {"options": LoadOptions(device="cuda")}])
def test_nothing_is_looked_for_on_a_device_that_cannot_be_used(changes: dict[str, Any]) -> None:
    with pytest.raises(PackageError, match="cuda:0 cannot be used"):
        EngineArgs("a/model/that/is/nowhere", **changes).open()


@pytest.mark.parametrize("late", ["filename", "tokenizer", "chat_template", "revision", "isq", "dtype"])
def test_a_package_is_as_it_is(tmp_path: Path, late: str) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(PackageError):  # nothing else is in it
        EngineArgs(tmp_path).open()
    with pytest.raises(CompileError, match=f"is compiled already: {late} 'f16' comes too late"):
        EngineArgs(tmp_path, **{late: "f16"}).open()


@pytest.fixture
def gguf(tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    return tiny_llama(tmp_path / "tiny.gguf").write()


def test_checkpoints_are_compiled_into_the_cache(gguf: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    with EngineArgs(gguf).open(lambda progress: stages.append(progress.stage)) as model:
        assert {record.type for record in model.manifest.tensors.values()} == {"F32"}
        assert model.chat_template is None
    assert "write" in stages
    stages.clear()
    EngineArgs(gguf).open(lambda progress: stages.append(progress.stage)).close()
    assert "write" not in stages
    said = EngineArgs(tmp_path, filename="tiny.gguf", isq="8", chat_template="chatml")
    with said.open() as model:
        assert "Q8_0" in {record.type for record in model.manifest.tensors.values()}
        assert model.chat_template is not None
    with EngineArgs(gguf, dtype="f16").open() as model:
        assert "F16" in {record.type for record in model.manifest.tensors.values()}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"token_source": "cash"}, "Did you mean cache"),
        ({"tokenizer": "/nowhere/tokenizer.json"}, "nowhere"),
        ({"chat_template": "chatmml"}, "the nearest is chatml"),
        ({"isq": "Q9"}, "Q9"),
        ({"dtype": "f8"}, "dtype must be one of"),
    ],
)
def test_mistakes_are_named(gguf: Path, said: dict[str, Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        EngineArgs(gguf, **said).open()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"model": 3}, "model must be a text, a path or a Which, got 3"),
        ({"model": "demo", "max_num_seqs": "4"}, "max_num_seqs must be an int, got '4'"),
    ],
)
def test_other_types_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        EngineArgs(**said)


def test_a_repository_that_is_not_here_is_not_asked_for_offline(gguf: Path) -> None:
    with pytest.raises(CompileError, match="not in"):
        EngineArgs("acme/nothing", offline=True).open()


def test_a_which_says_it_all(gguf: Path, tmp_path: Path) -> None:
    which = Which.GGUF(None, str(tmp_path), gguf.name, repeat_last_n=5)
    with EngineArgs(which, isq="8", chat_template="chatml").open() as model:
        assert "Q8_0" in {record.type for record in model.manifest.tensors.values()}
        assert model.defaults["repeat_last_n"] == 5
        assert model.chat_template is not None
    with pytest.raises(CompileError, match="has it itself: leave dtype 'f16' out"):
        EngineArgs(which, dtype="f16").open()


def test_adapters_of_a_which_are_loaded_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    described = read_golden()["llama"].model
    folder = write_folder(described, tmp_path / "tiny")
    write_adapter(tmp_path / "adapters" / "one", linears(described.shapes))
    order = tmp_path / "ordering.json"
    preload = {"name": "one", "adapter_model_id": str(tmp_path / "adapters")}
    order.write_text(json.dumps({"order": ["one"], "base_model_id": str(folder), "preload_adapters": [preload]}))
    which = Which.Lora(Architecture.Llama, str(tmp_path / "adapters"), str(order), model_id=str(folder))
    other = write_adapter(tmp_path / "two", linears(described.shapes), seed=1)
    with EngineArgs(which, adapters={"two": other}).open() as model:
        assert [adapter.name for adapter in model.adapters.loaded()] == ["one", "two"]
        assert model.adapters.active == ("one",)
