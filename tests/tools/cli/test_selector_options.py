"""`toml -f FILE`: the command line comes before what the file says."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_lines import handed_on, invoke

from mistralrs_onnx.compiler.sources.token_source import TokenSource
from mistralrs_onnx.speculate import SpeculateOptions
from mistralrs_onnx.tools.cli.options import CompiledNow

TEXT = """
repeat_last_n = 32
[model]
quantized_model_id = "models"
quantized_filename = "big.gguf"
[speculative]
gamma = 7
[speculative.draft_model]
quantized_model_id = "models"
quantized_filename = "small.gguf"
"""


@pytest.fixture
def selector(tmp_path: Path) -> Path:
    path = tmp_path / "selector.toml"
    path.write_text(TEXT)
    return path


def located(*words: object) -> CompiledNow:
    found = handed_on("server", *words)[-1]
    assert isinstance(found, CompiledNow)
    return found


def test_a_file_names_a_model_and_who_guesses_for_it(selector: Path) -> None:
    found = located("toml", "-f", selector)
    assert (found.chosen.source.kind, found.chosen.source.filename, found.repeat_last_n) == ("gguf", "big.gguf", 32)
    assert found.draft is not None
    assert (found.draft.chosen.source.filename, found.draft.options) == ("small.gguf", SpeculateOptions("lookup", 7))


def test_global_options_are_of_both_models(selector: Path) -> None:
    found = located("--isq", "q8_0", "--token-source", "none", "--offline", "-c", "chatml", "toml", "-f", selector)
    assert found.draft is not None
    for source, options in (found.chosen, found.draft.chosen):
        assert (options.isq.type, source.token_source, source.offline) == ("Q8_0", TokenSource("none"), True)
        assert "<|im_start|>" in (options.reading.chat_template or "")


def test_the_command_line_comes_before_the_file(selector: Path, tmp_path: Path) -> None:
    assert located("toml", "-f", selector, "--repeat-last-n", "5").repeat_last_n == 5
    gamma = located("--gamma", "3", "--fixed-gamma", "toml", "-f", selector).draft
    assert gamma is not None
    assert gamma.options == SpeculateOptions("lookup", 3, adaptive=False)
    for words in (["--prompt-lookup"], ["--draft", str(tmp_path)]):
        assert located(*words, "toml", "-f", selector).draft is None


def test_x_lora_has_its_index(tmp_path: Path) -> None:
    selector = tmp_path / "selector.toml"
    selector.write_text('[model]\nmodel_id = "base"\nxlora_model_id = "mixed"\ntgt_non_granular_index = 4')
    found = located("toml", "-f", selector)
    assert (found.tgt_non_granular_index, found.repeat_last_n) == (4, 64)


def test_compiling_takes_the_model_alone_and_says_so(selector: Path, tmp_path: Path) -> None:
    source = handed_on("compile", "toml", "-f", selector, "-o", tmp_path / "out")[0]
    assert source.filename == "big.gguf"
    result = invoke("compile", "toml", "-f", selector, "-o", tmp_path / "out")
    assert "note: [speculative] is for servers" in result.output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[model]\nmodel_it = 'x'", "selector.toml: [model] has an unknown key 'model_it'"),
        ("[model]\nmodel_id = 'x'\n[speculative]\ngamma = 3", "[speculative.draft_model]"),
        (TEXT.replace("gamma = 7", "gamma = 700"), "gamma must be from 1 to 64"),
        ("[model]\nmodel_id = 'x'\narch = 'phi3v'", "not supported"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "selector.toml"
    path.write_text(text)
    for words in (["toml", "-f", path], ["--config", path]):
        result = invoke("server", *words)
        assert (result.exit_code, complaint in result.output) == (4, True), result.output


def test_guesses_of_nobody(tmp_path: Path) -> None:
    path = tmp_path / "selector.toml"
    path.write_text("[model]\nmodel_id = 'x'")
    result = invoke("server", "--gamma", "3", "toml", "-f", path)
    assert (result.exit_code, "nothing guesses" in result.output) == (2, True)
    assert invoke("server", "toml", "-f", "/no/where").exit_code == 2
