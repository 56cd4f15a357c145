"""TOML files that select a model: what each means, and what is said of those that mean nothing clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.selector import KINDS, Selection, read_selector
from mistralrs_onnx.which import Which

EXAMPLES = Path(__file__).parents[2] / "examples" / "toml"
FILE = 'quantized_model_id = "files"\nquantized_filename = "model.gguf"\n'
OLD_FILE = 'quantized_model_id = "files"\nquantized_filename = "llama.ggmlv3.q4_0.bin"\n'
NEW, OLD = ("files", "model.gguf"), ("files", "llama.ggmlv3.q4_0.bin")
XLORA = 'xlora_model_id = "mix"\norder = "order.json"\n'
LORA = 'adapters_model_id = "some"\norder = "order.json"\n'


def selected(text: str, tmp_path: Path) -> Selection:
    path = tmp_path / "selector.toml"
    path.write_text(text, encoding="utf-8")
    return read_selector(path)


def complaint(text: str, tmp_path: Path) -> str:
    with pytest.raises(CompileError) as caught:
        selected(text, tmp_path)
    return str(caught.value).removeprefix(f"{tmp_path / 'selector.toml'}: ")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vision-plain"])
def test_the_examples_are_what_they_are_called(kind: str) -> None:
    assert type(read_selector(EXAMPLES / f"{kind}.toml").which) is KINDS[kind].which


def test_an_example_has_a_draft() -> None:
    large, small = (Which.Plain(f"HuggingFaceTB/SmolLM2-{size}-Instruct", "llama") for size in ("1.7B", "135M"))
    assert read_selector(EXAMPLES / "speculative.toml") == Selection(large, small, 8)


@pytest.mark.parametrize(
    ("body", "which"),
    [
        ('model_id = "m"\narch = "qwen2"\ndtype = "f16"', Which.Plain("m", "qwen2", dtype="f16")),
        ('model_id = "m"', Which.Plain("m")),
        ('model_id = "m"\narch = "phi3v"', Which.VisionPlain("m", "phi3v")),
        (XLORA + 'arch = "mistral"', Which.XLora("mistral", "mix", "order.json")),
        (LORA + 'model_id = "m"', Which.Lora(None, "some", "order.json", "m")),
        (FILE, Which.GGUF(None, *NEW)),
        (FILE + 'tok_model_id = "t"', Which.GGUF("t", *NEW)),
        (FILE + XLORA + 'tok_model_id = "t"', Which.XLoraGGUF("t", *NEW, "mix", "order.json")),
        (FILE + XLORA + "tgt_non_granular_index = 2", Which.XLoraGGUF(None, *NEW, "mix", "order.json", 2)),
        (FILE + LORA, Which.LoraGGUF(None, *NEW, "some", "order.json")),
        (OLD_FILE + 'tok_model_id = "t"', Which.GGML("t", *OLD)),
        (OLD_FILE + XLORA, Which.XLoraGGML(None, *OLD, "mix", "order.json")),
        (OLD_FILE + LORA + "gqa = 8", Which.LoraGGML(None, *OLD, "some", "order.json", gqa=8)),
        (FILE.replace(".gguf", "") + "gqa = 1", Which.GGML(None, "files", "model")),
    ],
)  # fmt: skip
def test_keys_tell_the_kind(body: str, which: object, tmp_path: Path) -> None:
    assert selected(f"[model]\n{body}", tmp_path) == Selection(which)


def test_a_kind_that_is_said_counts(tmp_path: Path) -> None:
    assert selected(f'[model]\nkind = "ggml"\n{FILE}', tmp_path).which == Which.GGML(None, *NEW)


@pytest.mark.parametrize("place", ["{}[model]", "[model]\n{}"])
def test_what_is_said_for_all_may_stand_in_the_table_too(place: str, tmp_path: Path) -> None:
    text = place.format('tokenizer_json = "t.json"\nrepeat_last_n = 8\n') + '\nmodel_id = "m"'
    assert selected(text, tmp_path).which == Which.Plain("m", tokenizer_json="t.json", repeat_last_n=8)


def test_the_draft_shares_what_is_said_for_all(tmp_path: Path) -> None:
    draft = "[speculative]\n[speculative.draft_model]\n" + FILE
    selection = selected(f'repeat_last_n = 8\n[model]\nmodel_id = "m"\n{draft}', tmp_path)
    assert selection == Selection(Which.Plain("m", repeat_last_n=8), Which.GGUF(None, *NEW, repeat_last_n=8), None)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (XLORA + 'adapters_model_id = "a"', "conflicting fields xlora_model_id and adapters_model_id in [model]: no"),
        (FILE + 'model_id = "m"', "conflicting fields quantized_model_id and model_id in [model]"),
        (FILE + 'arch = "llama"', "conflicting fields quantized_model_id and arch in [model]"),
        (LORA + "tgt_non_granular_index = 1", "conflicting fields adapters_model_id and tgt_non_granular_index"),
        (f'kind = "gguf"\n{FILE}{XLORA}', "conflicting fields in [model]: xlora_model_id is not of kind 'gguf'"),
        ('kind = "x-lora-guf"', "kind 'x-lora-guf' in [model] is unknown, known: plain, x-lora, lora, gguf"),
        ('kind = "gguf"\nquantized_model_id = "files"', "[model] of kind 'gguf' lacks quantized_filename"),
        ('quantized_model_id = "files"', "[model] lacks quantized_filename"),
        ('order = "o.json"\nmodel_id = "m"', "[model] lacks xlora_model_id or adapters_model_id"),
        ('tok_model_id = "t"', "[model] names no model: give model_id, or quantized_model_id"),
        ("", "[model] names no model"),
        ('model_ids = "m"', "[model] has an unknown key 'model_ids', known: model_id, "),
        ("model_id = 1", "model_id in [model] must be a text, got 1"),
        (OLD_FILE + "gqa = true", "gqa in [model] must be an integer, got True"),
    ],
)
def test_what_is_not_clear_is_refused(body: str, says: str, tmp_path: Path) -> None:
    assert complaint(f"[model]\n{body}", tmp_path).startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a table [model] must say which model"),
        ('model = "m"', "a table [model] must say which model, got 'm'"),
        ('no_kv_cache = true\n[model]\nmodel_id = "m"', "the file has an unknown key 'no_kv_cache', known: tokenizer_"),
        ('[model]\nmodel_id = "m"\n[speculative]\ngama = 3', "[speculative] has an unknown key 'gama', known: gamma"),
        ('[model]\nmodel_id = "m"\n[speculative]\ngamma = 3', "a table [speculative.draft_model] must say which model"),
        ("model = ", "no TOML"),
    ],
)
def test_files_that_say_nothing_clear(text: str, says: str, tmp_path: Path) -> None:
    assert says in complaint(text, tmp_path)


def test_names_that_are_nearly_right_are_suggested(tmp_path: Path) -> None:
    assert complaint('[model]\nmodel_ids = "m"', tmp_path).endswith("; did you mean model_id?")
    assert complaint('[model]\nkind = "x-lora-guf"', tmp_path).endswith("; did you mean x-lora-gguf?")


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"none\.toml: No such file"):
        read_selector(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CompileError, match=r"bytes\.toml is no TOML: 'utf-8' codec"):
        read_selector(tmp_path / "bytes.toml")
