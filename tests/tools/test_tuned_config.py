"""Commands and files say the same model again, whatever kind it is."""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import click
import pytest

from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.selector import select
from mistralrs_onnx.sources.adapter_source import AdapterSource
from mistralrs_onnx.sources.source import ModelSource
from mistralrs_onnx.sources.xlora_source import XLoraSource
from mistralrs_onnx.tools.tuned_config import command_line, config_text, model_keys, said_keys, serving_keys
from mistralrs_onnx.tuning import Candidate, Tuning, Wish
from mistralrs_onnx.which import Chosen, chosen

ORDER = Path("/orders/one.json")
PLAIN = ModelSource("plain", "me/model", revision="v1")
GGUF = ModelSource("gguf", "me/model", "model.gguf")
GGML = ModelSource("ggml", "me/model", "model.bin")
LORA, XLORA = AdapterSource("me/adapters", ORDER), XLoraSource("me/xlora", ORDER)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (PLAIN, CompileOptions(dtype="f16", reading=Reading(arch="llama"))),
        (replace(PLAIN, tokenizer="tokenizer.json"), CompileOptions()),
        (replace(PLAIN, adapters=LORA), CompileOptions()),
        (replace(PLAIN, xlora=XLORA), CompileOptions()),
        (replace(GGUF, tokenizer="me/tokenizer"), CompileOptions(dtype="bf16")),
        (replace(GGUF, adapters=LORA), CompileOptions()),
        (replace(GGUF, xlora=XLORA), CompileOptions()),
        (GGML, CompileOptions(reading=Reading(gqa=8))),
        (replace(GGML, adapters=AdapterSource("me/adapter")), CompileOptions()),
        (replace(GGML, xlora=XLORA), CompileOptions()),
    ],
)
def test_a_file_names_the_same_model(source: ModelSource, options: CompileOptions) -> None:
    content = tomllib.loads(config_text(Chosen(source, options), {"max_seqs": 3}))
    assert content.pop("max_seqs") == 3
    found = chosen(select(content).which)
    assert (found.source, found.options) == (source, options)


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'a "b"').mkdir()
    monkeypatch.chdir(tmp_path)
    source = replace(PLAIN, model='a "b"', adapters=AdapterSource("me/adapter", Path("order.json")))
    table = tomllib.loads(config_text(Chosen(source, CompileOptions()), {}))["model"]
    assert table["model_id"] == str(tmp_path / 'a "b"')
    assert table["order"] == str(tmp_path / "order.json")


@pytest.mark.parametrize(
    ("source", "options", "named"),
    [
        (GGUF, CompileOptions(reading=Reading(pre="smollm")), "--pre"),
        (GGUF, CompileOptions(reading=Reading(arch="llama")), "--arch"),
        (replace(PLAIN, adapters=LORA), CompileOptions(merge_dtype="f16"), "--merge-dtype"),
        (replace(PLAIN, xlora=XLoraSource("x", adapters={"one": Path("/one")})), CompileOptions(), "--adapter"),
    ],
)
def test_what_only_a_command_line_can_say(source: ModelSource, options: CompileOptions, named: str) -> None:
    with pytest.raises(click.UsageError, match=f"cannot say {named}: leave --emit-config out"):
        config_text(Chosen(source, options), {})
    assert f" {named} " in command_line(Chosen(source, options), {})


def test_a_command_line() -> None:
    xlora = XLoraSource("x", adapters={"one": Path("/one"), "two": Path("/two")})
    mixed = Chosen(replace(GGUF, xlora=xlora), CompileOptions())
    words = shlex.split(command_line(mixed, {"offline": True, "isq": None}))
    assert words[:3] == ["mistralrs-server", "--offline", "x-lora-gguf"]
    assert words[-4:] == ["--adapter", "one=/one", "--adapter", "two=/two"]


NOTHING = {"isq_map": None, "requantize": False, "offline": False, "token_source": "cache"}


def test_what_was_said_of_any_model() -> None:
    assert set(said_keys(NOTHING).values()) == {None}
    said = {"isq_map": Path("/rules"), "requantize": True, "offline": True, "token_source": "env:TOKEN"}
    assert said_keys(said) == {**said, "isq_map": "/rules"}


def test_a_token_is_never_written() -> None:
    assert said_keys({**NOTHING, "token_source": "literal:secret"})["token_source"] is None


def test_defaults_are_left_out() -> None:
    assert list(model_keys(Chosen(GGUF, CompileOptions())).values()).count(None) == 5


@pytest.mark.parametrize(
    ("room", "max_seqs", "memory", "expected"),
    [
        (1000, 1, 10_000, {"isq": "Q4K"}),  # the whole context; half of the memory holds it
        (1000, 1, 1500, {"isq": "Q4K", "kv_mem": 1000}),
        (500, 2, 1500, {"isq": "Q4K", "max_seqs": 2, "max_model_len": 500, "kv_mem": 1000}),
    ],
)
def test_what_a_server_must_be_told(room: int, max_seqs: int, memory: int, expected: dict[str, object]) -> None:
    best = Candidate("Q4K", "Q4K", 0, 100, 0, room, 0.0, 0, "fits", ())
    tuning = Tuning("x", "llama", 1, 1000, 1000, 1000, 1, (), (best,))
    found = serving_keys(tuning, best, Wish(memory, max_seqs), None if max_seqs == 1 else max_seqs)
    assert {key: value for key, value in found.items() if value is not None} == expected
