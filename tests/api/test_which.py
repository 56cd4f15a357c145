"""Choices of a model: their signatures are mistral.rs's, and each comes to a source and options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mistralrs_onnx.compiler.archs import ARCHS
from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.isq_map import parse_type
from mistralrs_onnx.compiler.sources.token_source import TokenSource
from mistralrs_onnx.sources.adapter_source import AdapterSource
from mistralrs_onnx.sources.source import ModelSource
from mistralrs_onnx.sources.xlora_source import XLoraSource
from mistralrs_onnx.which import AnyWhich, Architecture, Defaults, VisionArchitecture, Which, chosen, non_granular_index

FILE = ("files", "model.bin")
ORDER = Path("order.json")


def test_architectures_are_those_that_compile() -> None:
    assert {each.value for each in Architecture} == set(ARCHS)


@pytest.mark.parametrize(
    ("which", "source", "reading"),
    [
        (
            Which.Plain("m", Architecture.Qwen2, "t.json", 32),
            ModelSource("plain", "m", tokenizer="t.json"),
            Reading(arch="qwen2"),
        ),
        (
            Which.XLora(Architecture.Mistral, "mix", "order.json", 1, "m", "t.json", 32),
            ModelSource("plain", "m", tokenizer="t.json", xlora=XLoraSource("mix", ORDER)),
            Reading(arch="mistral"),
        ),
        (
            Which.Lora(Architecture.Llama, "some", "order.json", "m", "t.json", 32),
            ModelSource("plain", "m", tokenizer="t.json", adapters=AdapterSource("some", ORDER)),
            Reading(arch="llama"),
        ),
        (Which.GGUF("t", *FILE, 32), ModelSource("gguf", *FILE, tokenizer="t"), Reading()),
        (
            Which.XLoraGGUF("t", *FILE, "mix", "order.json", 1, 32),
            ModelSource("gguf", *FILE, tokenizer="t", xlora=XLoraSource("mix", ORDER)),
            Reading(),
        ),
        (
            Which.LoraGGUF(None, *FILE, "some", "order.json", 32),
            ModelSource("gguf", *FILE, adapters=AdapterSource("some", ORDER)),
            Reading(),
        ),
        (Which.GGML("t", *FILE, "t.json", 32, 8), ModelSource("ggml", *FILE, tokenizer="t.json"), Reading(gqa=8)),
        (
            Which.XLoraGGML("t", *FILE, "mix", None, 1, "t.json", 32, 8),
            ModelSource("ggml", *FILE, tokenizer="t.json", xlora=XLoraSource("mix")),
            Reading(gqa=8),
        ),
        (
            Which.LoraGGML("t", *FILE, "some", "order.json", "t.json", 32, 8),
            ModelSource("ggml", *FILE, tokenizer="t.json", adapters=AdapterSource("some", ORDER)),
            Reading(gqa=8),
        ),
    ],
)
def test_each_comes_to_a_source_and_options(which: AnyWhich, source: ModelSource, reading: Reading) -> None:
    assert which.repeat_last_n == 32
    assert chosen(which) == (source, CompileOptions(reading=reading))


def test_penalties_look_back_64_tokens() -> None:
    assert Which.GGUF(None, *FILE).repeat_last_n == 64


def test_the_index_is_of_xlora() -> None:
    assert non_granular_index(Which.XLoraGGUF(None, *FILE, "mix", None, 3)) == 3
    assert non_granular_index(Which.Plain("m")) is None


def test_what_is_said_of_any_model_joins() -> None:
    isq, token = Isq(parse_type("Q4K")), TokenSource("env", "TOKEN")
    defaults = Defaults(CompileOptions(isq=isq, reading=Reading(chat_template="x")), token, offline=True)
    found = chosen(Which.Plain("m", "llama", dtype="f16", revision="v2"), defaults)
    assert found.source == ModelSource("plain", "m", revision="v2", token_source=token, offline=True)
    assert found.options == CompileOptions(dtype="f16", isq=isq, reading=Reading(arch="llama", chat_template="x"))


def test_a_gguf_file_may_have_another_tokenizer_file() -> None:
    assert chosen(Which.GGUF(None, *FILE, tokenizer_json="t.json")).source.tokenizer == "t.json"


def test_paths_count_as_their_text() -> None:
    which = Which.LoraGGUF(None, Path("files"), Path("model.bin"), Path("some"), Path("order.json"))  # type: ignore[arg-type]
    assert which == Which.LoraGGUF(None, *FILE, "some", "order.json")
    with pytest.raises(TypeError, match=r"model_id must be a text or a number, got \['m'\]"):
        Which.Plain(["m"])  # type: ignore[arg-type]


def test_the_ordering_file_names_the_base(tmp_path: Path) -> None:
    order = tmp_path / "order.json"
    order.write_text(json.dumps({"order": ["one"], "base_model_id": "acme/base"}))
    assert chosen(Which.Lora(None, "some", str(order))).source.model == "acme/base"
    with pytest.raises(CompileError, match="which model"):
        chosen(Which.Lora(None, "some", None))


def test_models_that_see_are_refused() -> None:
    with pytest.raises(
        CompileError, match=r"acme/eyes: models that see are not supported; Which\.Plain takes Mistral, "
    ):
        chosen(Which.VisionPlain("acme/eyes", VisionArchitecture.Phi3V))
