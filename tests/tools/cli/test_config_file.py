"""Options from a file, and which come first: command line, environment, file, default."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_lines import handed_on, invoke

from mistralrs_onnx.tools.cli.options import CompiledNow


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "server.toml"


def test_the_command_line_comes_first_then_the_environment_then_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("port = 1\nmax-seqs = 2\nmax-queue = 3\nthreads = 1")
    monkeypatch.setenv("MISTRALRS_PORT", "11")
    monkeypatch.setenv("MISTRALRS_MAX_SEQS", "12")
    wanted, _ = handed_on("server", "--config", config, "-p", "21", "demo")
    engine = wanted.loading.engine
    assert (wanted.server.port, engine.max_seqs, engine.max_queue, engine.prefill_chunk) == (21, 12, 3, 512)


def test_the_environment_names_the_file_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("port = 1")
    monkeypatch.setenv("MISTRALRS_CONFIG", str(config))
    assert handed_on("server", "demo")[0].server.port == 1


def test_every_kind_of_value(config: Path, tmp_path: Path) -> None:
    config.write_text(
        f"""
        kv_mem = "5MiB"
        no-prefix-cache = true
        verify = false
        drain-timeout = 2.5
        serve-ip = "::1"
        lora-modules = ["a={tmp_path}", "b={tmp_path}"]
        isq = 4
        """
    )
    wanted, locate = handed_on("server", "--config", config, "gguf", "-m", ".", "-f", "x.gguf")
    assert (wanted.loading.engine.kv_mem, wanted.loading.engine.prefix_cache) == (5 << 20, False)
    assert (wanted.loading.verify, wanted.server.drain_timeout, wanted.server.host) == (False, 2.5, "::1")
    assert list(wanted.loading.adapters.modules) == ["a", "b"]
    assert locate.chosen.options.isq.type == "Q4_K"


def test_who_guesses_is_a_question_of_who_comes_first(config: Path, tmp_path: Path) -> None:
    config.write_text("prompt-lookup = true")
    assert handed_on("server", "--config", config, "demo")[0].loading.speculate.draft == "lookup"
    drafted = handed_on("server", "--config", config, "--draft", tmp_path, "demo")[0]
    assert drafted.loading.speculate.draft == tmp_path
    config.write_text(f'draft = "{tmp_path}"')
    looked_up = handed_on("server", "--config", config, "--prompt-lookup", "demo")[0]
    assert looked_up.loading.speculate.draft == "lookup"


def test_tables_are_for_subcommands(config: Path) -> None:
    config.write_text('[gguf]\nquantized-model-id = "folder"\nquantized_filename = "x.gguf"\n[ggml]\ngqa = 8')
    locate = handed_on("server", "--config", config, "gguf")[-1]
    assert (locate.chosen.source.model, locate.chosen.source.filename) == ("folder", "x.gguf")
    ggml = handed_on("compile", "--config", config, "ggml", "-m", "m", "-f", "f", "-o", "out")
    assert ggml[1].reading.gqa == 8


def test_a_table_model_needs_no_subcommand(config: Path) -> None:
    config.write_text('port = 9\nrepeat_last_n = 7\n[model]\nmodel_id = "folder"')
    wanted, locate = handed_on("server", "--config", config)
    assert isinstance(locate, CompiledNow)
    assert (wanted.server.port, locate.chosen.source.model, locate.repeat_last_n) == (9, "folder", 7)
    elsewhere = handed_on("server", "--config", config, "plain", "-m", "other")[-1]
    assert (elsewhere.chosen.source.model, elsewhere.repeat_last_n) == ("other", None)


def test_a_file_in_the_environment_is_a_whole_command_line(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[model]\nmodel_id = "folder"')
    monkeypatch.setenv("MISTRALRS_CONFIG", str(config))
    assert handed_on("server")[-1].chosen.source.model == "folder"
    monkeypatch.delenv("MISTRALRS_CONFIG")
    assert invoke("server").output.startswith("Usage:")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_sex = 3", "server.toml: unknown key max_sex, the nearest is max-seqs"),
        ("[modle]\nmodel_id = 'x'", "server.toml: unknown key modle, the nearest is model"),
        ("config = 'x.toml'", "unknown key config"),
        ("[gguf]\nquantised-filename = 'x'", "[gguf] in server.toml: unknown key quantised-filename, the nearest is q"),
        ("port = 'many'", "'many' is not a valid whole number (from server.toml)"),
        ("port = true", "server.toml: port must be a text or a number, got True"),
        ("port = [1, 2]", "port must be a text or a number, got [1, 2]"),
        ("verify = 'yes'", "verify must be true or false, got 'yes'"),
        ("max-seqs = 2.5", "'2.5' is not a valid whole number"),
        ("max-seqs = 0", "(from server.toml)"),
        ("port = ", "server.toml is no TOML"),
    ],
)
def test_mistakes_name_the_file(config: Path, text: str, complaint: str) -> None:
    config.write_text(text)
    result = invoke("server", "--config", "server.toml", "demo")
    assert (result.exit_code, complaint in " ".join(result.output.split())) == (2, True), result.output


def test_mistakes_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_PORT", "tcp://10.0.0.1:80")  # what Kubernetes sets for a service `mistralrs`
    result = invoke("server", "demo")
    assert (result.exit_code, "(from MISTRALRS_PORT)" in result.output) == (2, True)


def test_what_only_prints_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VERSION", "HELP", "HELP_ALL", "PRINT_CONFIG", "CACHE", "DEBUG"):
        monkeypatch.setenv(f"MISTRALRS_{name}", "1")
    handed_on("server", "demo")
