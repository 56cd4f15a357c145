"""What is said of an engine, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistralrs_onnx import CompileError, EngineArgs, EngineOptions, LoadOptions
from mistralrs_onnx.adapters import AdapterOptions
from mistralrs_onnx.graphs.contract import Manifest


def test_what_is_said_goes_before_the_options() -> None:
    options = LoadOptions(EngineOptions(max_seqs=2, prefill_chunk=64), num_threads=1)
    said = EngineArgs("m", max_model_len=99, enable_prefix_caching=False, options=options).load_options()
    engine = EngineOptions(max_seqs=2, prefill_chunk=64, max_model_len=99, prefix_cache=False)
    assert said == LoadOptions(engine, num_threads=1)
    assert EngineArgs("m", options=options).load_options() == options
    assert EngineArgs("m", max_num_seqs=3).load_options().engine.max_seqs == 3


def test_any_number_may_wait_unless_options_say_otherwise() -> None:
    assert EngineArgs("m").load_options().engine.max_queue > 10**6
    assert EngineArgs("m", options=LoadOptions()).load_options().engine.max_queue == EngineOptions().max_queue


def test_adapters_join_those_of_the_options() -> None:
    given = AdapterOptions({"one": Path("1")}, active=("one",))
    said = EngineArgs("m", adapters={"two": "~/2"}, options=LoadOptions(adapters=given)).load_options().adapters
    assert said == AdapterOptions({"one": Path("1"), "two": Path("~/2").expanduser()}, active=("one",))
    assert EngineArgs("m").load_options().adapters is None


@pytest.mark.parametrize(
    "late", [{"filename": "a"}, {"tokenizer": "a"}, {"revision": "a"}, {"isq": "Q4K"}, {"dtype": "f16"}]
)
def test_a_package_is_as_it_is(tmp_path: Path, late: dict[str, Any]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert EngineArgs(tmp_path).package() == tmp_path
    with pytest.raises(CompileError, match=f"is compiled already: {next(iter(late))} .* comes too late"):
        EngineArgs(tmp_path, **late).package()


def test_checkpoints_are_compiled_into_the_cache(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    gguf = tiny_llama(tmp_path / "tiny.gguf").write()
    plain, other = EngineArgs(gguf), EngineArgs(tmp_path, filename="tiny.gguf", isq="8", dtype="f16")
    assert plain.package() == plain.package() != other.package()
    manifest = Manifest.from_json((other.package() / "manifest.json").read_text())
    assert {record.type for record in manifest.tensors.values()} >= {"Q8_0"}
    with pytest.raises(CompileError, match="not in"):
        EngineArgs("acme/nothing", offline=True).package()
    with pytest.raises(CompileError, match="Did you mean cache"):
        EngineArgs(gguf, token_source="cash").package()
    with pytest.raises(CompileError, match="nowhere"):
        EngineArgs(gguf, tokenizer="/nowhere/tokenizer.json").package()
