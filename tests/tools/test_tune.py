"""`mistralrs-onnx tune` as it is typed, what it prints, and the file that it writes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from golden import read_golden
from tiny_models import write_folder

from mistralrs_onnx.selector import read_selector
from mistralrs_onnx.tools.cli.checkpoints import COMMANDS
from mistralrs_onnx.tools.serve import main as serve
from mistralrs_onnx.tools.tune import tune
from mistralrs_onnx.tuning import CHOICES
from mistralrs_onnx.which import Which


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(read_golden()["llama"].model, tmp_path_factory.mktemp("checkpoint") / "tiny")


def tune_it(*arguments: object) -> Result:
    return CliRunner().invoke(tune, [str(argument) for argument in arguments])


def found(*arguments: object) -> dict[str, Any]:
    result = tune_it("--json", *arguments)
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_a_table_and_a_recommendation(folder: Path) -> None:
    result = tune_it("--memory", "1GiB", "plain", "-m", folder)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:2] == [
        "tiny (llama): 0.1 million weights",
        "Wanted: 1 sequence of 256 tokens in 1.00 GiB of memory",
    ]
    assert lines[4].split("  ")[0].startswith("Quant")
    assert [line.split()[0] for line in lines[6:15]] == list(CHOICES)
    assert lines[5].split() == ["as", "it", "is", "408.0", "KiB", "14.7%", "256", "(all)", "exact", "fits"]
    assert lines[-2].startswith("Recommended (balanced): ")
    assert lines[-1].startswith("Serve it with: mistralrs-server --isq ")
    assert "fell back" not in result.output


def test_the_recommended_command_is_one(folder: Path, tmp_path: Path) -> None:
    line = found("--profile", "fast", "plain", "-m", folder)["command"]
    program, *arguments = shlex.split(line)
    assert program == "mistralrs-server"
    result = CliRunner().invoke(serve, ["--print-config", *arguments])
    assert result.exit_code == 0, result.output
    assert 'isq = "' in result.output


def test_profiles_differ(folder: Path) -> None:
    values = found("plain", "-m", folder)
    fewest = min(values["candidates"], key=lambda each: (each["read"], each["error"]))
    assert values["recommended"]["quality"] == "as it is" != fewest["name"] == values["recommended"]["fast"]


def test_json_has_every_figure(folder: Path) -> None:
    values = found("--max-seqs", 2, "--kv-dtype", "float16", "--memory", "1GiB", "plain", "-m", folder)
    assert values["wish"] == {"memory": 1 << 30, "max_seqs": 2, "max_model_len": None, "kv_dtype": "float16"}
    assert values["token_bytes"] == 384
    assert len(values["candidates"]) == 1 + len(CHOICES)
    first = values["candidates"][0]
    assert (first["name"], first["isq"], first["error"], first["status"]) == ("as it is", None, 0.0, "fits")
    assert first["needed"] == first["weights_memory"] + 2 * 256 * 384


def test_a_quantized_checkpoint_says_so(tiny_llama, tmp_path: Path) -> None:
    file = tiny_llama(tmp_path / "tiny.gguf", {"ffn_up": "Q8_0"}).write()
    where = ("gguf", "-m", tmp_path, "-f", file.name)
    assert "It is quantized already (Q8_0) and keeps these types" in tune_it(*where).stdout
    assert "quantized already" not in tune_it("--requantize", *where).stdout


def test_scarce_memory_is_said(folder: Path) -> None:
    result = tune_it("--memory", "170MiB", "--max-seqs", 100, "plain", "-m", folder)
    assert result.exit_code == 0, result.output
    assert "No choice has room for so many tokens" in result.stdout
    assert " --max-seqs 100 --max-model-len " in result.stdout


def test_no_room_at_all_has_its_exit_code(folder: Path) -> None:
    result = tune_it("--memory", "100MiB", "plain", "-m", folder)
    assert result.exit_code == 3
    assert "no choice fits: the smallest takes 150." in result.stderr
    assert result.stdout.count(" no\n") == 1 + len(CHOICES)
    assert json.loads(tune_it("--json", "--memory", "1MiB", "plain", "-m", folder).stdout)["command"] is None


def test_a_file_to_serve_with(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    config = tmp_path / "server.toml"
    options = ("--profile", "fast", "--max-seqs", 3000, "--max-model-len", 100, "--kv-dtype", "float16")
    needed = min(each["needed"] for each in found(*options, "plain", "-m", "tiny", "-d", "f16")["candidates"])
    needed = int(needed / 0.9) + 1
    result = tune_it(*options, "--memory", needed, "--emit-config", config, "plain", "-m", "tiny", "-d", "f16")
    assert result.exit_code == 0, result.output
    assert f"mistralrs-server --config {config}" in result.stderr
    shown = CliRunner().invoke(serve, ["--config", str(config), "--print-config"])
    assert shown.exit_code == 0, shown.output
    lines = {line.split(" = ")[0]: line for line in shown.output.splitlines() if line.endswith(str(config))}
    assert {"isq", "max-seqs", "max-model-len", "kv-mem", "kv-dtype", "model_id", "dtype"} <= set(lines)
    values = {name: line.split()[2].strip('"') for name, line in lines.items()}
    assert values["max-seqs"] == "3000"
    assert values["kv-mem"] == str(3000 * 100 * 384)
    assert values["model_id"] == str(folder)


def test_the_model_of_the_file(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "model.toml"
    assert tune_it("--emit-config", config, "plain", "-m", folder, "-a", "llama").exit_code == 0
    text = config.read_text()
    only_model = tmp_path / "only.toml"
    only_model.write_text(text[text.index("[model]") :])
    selection = read_selector(only_model)
    assert selection.which == Which.Plain(str(folder), arch="llama")


def test_what_a_file_cannot_say_is_refused(tiny_llama, tmp_path: Path) -> None:
    file = tiny_llama(tmp_path / "tiny.gguf").write()
    where = ("gguf", "-m", tmp_path, "-f", file.name, "--pre", "gpt-2")
    result = tune_it("--emit-config", tmp_path / "x.toml", *where)
    assert (result.exit_code, "cannot say --pre" in result.stderr) == (2, True), result.output
    assert not (tmp_path / "x.toml").exists()
    assert "--pre gpt-2" in tune_it(*where).stdout


def test_a_file_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    result = tune_it("--emit-config", tmp_path / "no" / "x.toml", "plain", "-m", folder)
    assert (result.exit_code, "No such file or directory" in result.stderr) == (2, True), result.output


def test_a_file_of_mistralrs_names_the_model(folder: Path, tmp_path: Path) -> None:
    """The model that guesses for it is not compared, and not counted."""
    selector = tmp_path / "models.toml"
    draft = f'[speculative]\ngamma = 3\n[speculative.draft_model]\nmodel_id = "{folder}"\n'
    selector.write_text(f'[model]\nmodel_id = "{folder}"\n{draft}')
    result = tune_it("toml", "-f", selector)
    assert (result.exit_code, "note: the model that guesses" in result.stderr) == (0, True), result.output


def test_every_kind_of_checkpoint_can_be_named() -> None:
    assert set(tune.commands) >= {*COMMANDS, "toml", "demo"}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["plain", "-m", "/no/where"], 4, "there is no file or folder"),
        (["--memory", "much", "demo"], 2, "is not a size"),
        (["--memory", "0", "demo"], 2, "more than nothing"),
        (["--profile", "best", "demo"], 2, "best"),
        (["--isq", "Q9", "demo"], 4, "quantization type 'Q9' is unknown"),
    ],
)
def test_mistakes(arguments: list[str], code: int, text: str) -> None:
    result = tune_it(*arguments)
    assert (result.exit_code, text in result.output) == (code, True), result.output


def test_help_fits_on_a_screen() -> None:
    assert len(tune_it("--help").output.splitlines()) <= 40
