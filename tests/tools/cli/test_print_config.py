"""What is set, and where."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from command_lines import handed_on, invoke


def origins(*arguments: object) -> dict[str, tuple[str, str]]:
    """Values and origins by key, of the last table that has it."""
    result = invoke("server", "--print-config", *arguments)
    assert result.exit_code == 0, result.output
    lines = [line.partition("  # ") for line in result.output.splitlines() if "  # " in line]
    pairs = [(line.removeprefix("# ").partition(" = "), origin) for line, _, origin in lines]
    return {key.strip(): (value.strip(), origin) for (key, _, value), origin in pairs}


def test_each_value_has_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "server.toml"
    config.write_text("max-seqs = 2\nthreads = 3")
    monkeypatch.setenv("MISTRALRS_THREADS", "4")
    monkeypatch.setenv("MISTRALRS_SERVE_IP", "::1")
    found = origins("--config", config, "--kv-mem", "4GiB", "gguf", "-m", "folder", "-f", "x.gguf")
    expected = {
        "max-seqs": ("2", str(config)),
        "threads": ("4", "environment MISTRALRS_THREADS"),
        "host": ('"::1"', "environment MISTRALRS_SERVE_IP"),
        "kv-mem": ('"4GiB"', "command line"),
        "port": ("1234", "default"),
        "verify": ("false", "default"),
        "max-model-len": ("", "default: the model's"),
        "quantized-model-id": ('"folder"', "command line"),
        "repeat-last-n": ("", "default: 64"),
    }
    assert found | expected == found


def test_what_is_printed_sets_the_same(tmp_path: Path) -> None:
    options = ["-p", "9", "--max-seqs", "3", "--no-kv-cache", "--lora-modules", f"a={tmp_path}", "--prompt-lookup"]
    model = ["gguf", "-m", str(tmp_path), "-f", "x.gguf", "--repeat-last-n", "5"]
    printed = invoke("server", "--print-config", *options, *model).output
    config = tmp_path / "printed.toml"
    config.write_text(printed)
    assert repr(handed_on("server", "--config", config, "gguf")) == repr(handed_on("server", *options, *model))


def test_what_a_file_says_of_the_model(tmp_path: Path) -> None:
    selector = tmp_path / "selector.toml"
    selector.write_text('repeat_last_n = 5\n[model]\nmodel_id = "a"\n[speculative.draft_model]\nmodel_id = "b"')
    printed = invoke("server", "--print-config", "toml", "-f", selector).output
    again = tmp_path / "printed.toml"
    again.write_text(printed)
    content = tomllib.loads(printed)
    assert (content["model"], content["speculative"]) == ({"model_id": "a"}, {"draft_model": {"model_id": "b"}})
    assert repr(handed_on("server", "--config", again)) == repr(handed_on("server", "toml", "-f", selector))


def test_without_a_model_there_are_the_options_of_any() -> None:
    assert "[" not in "".join(
        line for line in invoke("server", "--print-config").output.splitlines() if "#" not in line
    )
    assert origins()["port"] == ("1234", "default")
    assert origins("demo")["repeat-last-n"] == ("", "default: 64")


def test_tokens_are_not_shown() -> None:
    output = invoke("server", "--print-config", "--token-source", "literal:hf_secret").output
    assert ("hf_secret" in output, "literal:***" in output) == (False, True)


def test_a_line_that_is_not_whole_is_still_a_mistake() -> None:
    result = invoke("server", "--print-config", "gguf", "-m", "folder")
    assert (result.exit_code, "--quantized-filename" in result.output) == (2, True)


@pytest.mark.parametrize(("command", "words"), [("compile", ["demo", "-o", "out"]), ("bench", ["-c", "1,2", "demo"])])
def test_every_command_prints(command: str, words: list[str]) -> None:
    result = invoke(command, "--print-config", *words)
    assert (result.exit_code, "[demo]" in result.output) == (0, True), result.output
