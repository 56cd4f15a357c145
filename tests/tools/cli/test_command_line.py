"""Help with the usual options and with all, and groups that need no subcommand."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_lines import MAINS, handed_on, invoke

from mistralrs_onnx.tools.cli.checkpoints import EXAMPLES
from mistralrs_onnx.tools.cli.option import ABOUT, subject_of


@pytest.mark.parametrize("command", MAINS)
def test_all_options_are_listed_under_their_subjects(command: str) -> None:
    main = MAINS[command]
    page = CliRunner().invoke(main, ["--help-all"], terminal_width=100).output
    for param in main.params:
        assert isinstance(param, click.Option)
        assert all(f"{name}" in page for name in param.opts)
        assert f"\n{subject_of(param)}:\n" in page
    assert page.index(f"{ABOUT}:") < page.index("Commands:")
    assert "MISTRALRS_MAX_SEQS=4 is --max-seqs 4" in page


@pytest.mark.parametrize("command", MAINS)
def test_help_is_one_screen_and_says_where_the_rest_is(command: str) -> None:
    page = CliRunner().invoke(MAINS[command], ["--help"], terminal_width=100).output
    assert "--help-all" in page
    assert "Examples:" in page
    assert "--max-lora-rank" not in page
    assert "[default: " in " ".join(page.split())


@pytest.mark.parametrize("subcommand", list(MAINS["server"].commands))
def test_help_of_subcommands_is_one_screen(subcommand: str) -> None:
    for main in MAINS.values():
        if subcommand in main.commands:
            page = CliRunner().invoke(main, [subcommand, "--help"], terminal_width=100).output
            assert len(page.splitlines()) <= 40


@pytest.mark.parametrize(("command", "ending"), [("server", ""), ("compile", " -o package"), ("bench", "")])
@pytest.mark.parametrize("subcommand", EXAMPLES)
def test_examples_of_subcommands_are_whole(
    command: str, ending: str, subcommand: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand on the page; the files that they name need not be there."""
    page = CliRunner().invoke(MAINS[command], [subcommand, "--help"], prog_name=command, terminal_width=100).output
    example = f"{command} {subcommand} {EXAMPLES[subcommand]}{ending}"
    assert f"Example:\n    {example}\n" in page
    monkeypatch.chdir(tmp_path)
    (tmp_path / "order.json").write_text('{"order": [], "base_model_id": "repo/base"}')
    (tmp_path / "selector.toml").write_text('[model]\nmodel_id = "repo/base"')
    handed_on(*shlex.split(example))


def test_without_a_subcommand_there_is_help_or_a_hint() -> None:
    alone = invoke("server")
    assert (alone.exit_code, "Examples:" in alone.output) == (2, True)
    lacking = invoke("server", "-p", "8")
    assert (lacking.exit_code, "Missing command." in lacking.output) == (2, True)


def test_a_package_is_compiled_already() -> None:
    """Options of the way it is compiled are refused, not ignored."""
    for words in (["--isq", "4"], ["-c", "chatml"], ["--offline"], ["--token-source", "none"], ["--requantize"]):
        result = invoke("server", *words, "compiled", "-m", "package")
        assert (result.exit_code, "a package is compiled already" in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("server demo -p 80", "-p stands before the subcommand: server -p N demo"),
        ("server demo -i", "-i stands before the subcommand: server -i demo"),
        ("server -m models gguf", "-m stands behind the subcommand: server gguf -m TEXT"),
        ("compile -o package demo", "-o stands behind the subcommand: compile demo -o PATH"),
        ("compile demo --nowhere", "No such option '--nowhere'."),
        ("server -p 80x demo", "'80x' is not a valid whole number."),
    ],
)
def test_an_option_in_the_wrong_place_is_told_where_it_belongs(words: str, advice: str) -> None:
    command, *arguments = words.split()
    result = CliRunner().invoke(MAINS[command], arguments, prog_name=command)
    assert (result.exit_code, advice in result.output) == (2, True), result.output
