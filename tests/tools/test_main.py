"""The umbrella: every command under one name, imported when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mistralrs_onnx.tools import main as umbrella
from mistralrs_onnx.tools.main import COMMANDS, EXTRAS, main

BUILT = [name for name, lazy in COMMANDS.items() if find_spec(f"mistralrs_onnx.tools.{lazy.module}")]
HEAVY = {"onnx", "onnx_ir", "numpy", "sanic", "rich", "onnxruntime", "mistralrs_onnx.tools.serve"}


def pages(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, sub in command.commands.items() if isinstance(command, click.Group) else ():
        yield from pages(sub, *path, name)


def every_page() -> list[tuple[str, ...]]:
    context = click.Context(main)
    found = [page for name in BUILT for page in pages(main.get_command(context, name), name)]
    return [(), *found]


@pytest.mark.parametrize("page", every_page(), ids=" ".join)
def test_a_page_of_help_fits_on_a_screen(page: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*page, "--help"], terminal_width=100, prog_name="mistralrs-onnx")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: {' '.join(('mistralrs-onnx', *page))} ")
    assert sum(max(1, -(-len(line) // 100)) for line in result.output.splitlines()) <= 40, result.output


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(option: str) -> None:
    code = f"""
import sys
from mistralrs_onnx.tools.main import main
main([{option!r}], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())


def test_help_names_every_command_and_exit_code() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    for name in COMMANDS:
        assert f"\n  {name} " in text
    for code in (0, 1, 2, 3, 4, 130):
        assert f"\n    {code} " in text


@pytest.mark.parametrize(("name", "module"), [("serve", "serve"), ("compile", "compile"), ("bench", "bench")])
def test_the_commands_that_were_there_before_are_the_same_ones(name: str, module: str) -> None:
    found = main.get_command(click.Context(main), name)
    assert found is vars(sys.modules[f"mistralrs_onnx.tools.{module}"])["main"]


@pytest.mark.parametrize("name", ["serve", "compile", "bench"])
@pytest.mark.parametrize(
    "arguments", [("--print-config", "demo"), ("gguf", "-m", "."), ("--no-such-option",)], ids=" ".join
)
def test_they_do_the_same_but_for_their_name(name: str, arguments: tuple[str, ...]) -> None:
    alone = main.get_command(click.Context(main), name)
    assert alone is not None
    prog = f"mistralrs-onnx {name}"
    expected = CliRunner().invoke(alone, arguments, prog_name=prog)
    found = CliRunner().invoke(main, [name, *arguments], prog_name="mistralrs-onnx")
    assert (found.exit_code, found.output) == (expected.exit_code, expected.output)


def test_the_version_is_that_of_all_three() -> None:
    lines = CliRunner().invoke(main, ["--version"]).output.splitlines()
    assert lines[0] == f"mistralrs-onnx {version('mistralrs-onnx')}"
    assert lines[1].startswith("onnxruntime")
    assert lines[2] == f"Python {sys.version.split()[0]}"


def test_a_version_without_onnx_runtime_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umbrella, "_version", lambda _: None)
    assert "pip install 'mistralrs-onnx[cpu]'" in CliRunner().invoke(main, ["--version"]).output


@pytest.mark.parametrize(("typed", "advice"), [("servee", "is it serve?"), ("xyz", "known: compile, serve, run")])
def test_an_unknown_command(typed: str, advice: str) -> None:
    result = CliRunner().invoke(main, [typed])
    assert (result.exit_code, advice in result.output) == (2, True), result.output


@pytest.mark.parametrize("missing", [*EXTRAS, "sanic"])
def test_a_missing_library_is_named_with_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, package: str) -> Any:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=f"{missing}.part")

    monkeypatch.setattr(umbrella, "import_module", fail)
    result = CliRunner().invoke(main, ["serve", "demo"])
    wanted = f"pip install 'mistralrs-onnx[{EXTRAS[missing]}]'" if missing in EXTRAS else "pip install 'mistralrs-onnx'"
    assert (result.exit_code, wanted in result.output) == (1, True), result.output


def test_a_mistake_of_ours_is_not_taken_for_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, package: str) -> Any:
        raise ImportError("cannot import name 'x' from 'mistralrs_onnx.tools.y'", name="mistralrs_onnx.tools.y")

    monkeypatch.setattr(umbrella, "import_module", fail)
    assert isinstance(CliRunner().invoke(main, ["serve", "demo"]).exception, ImportError)


def test_interrupted_while_a_command_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str, package: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(umbrella, "import_module", interrupt)
    assert CliRunner().invoke(main, ["serve", "demo"]).exit_code == 130
