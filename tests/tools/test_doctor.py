"""`mistralrs-onnx doctor` as it is typed, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.diagnosing.diagnosis import Check
from mistralrs_onnx.tools.doctor import doctor, known_variables, render, summary, to_json

FINE, ODD, BAD = (
    Check("port", "ok", "free"),
    Check("memory", "warn", "little", "end others"),
    Check("hub", "fail", "no"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))


def test_a_line_for_each_check() -> None:
    lines = click.unstyle(render([FINE, ODD, BAD], None)).splitlines()
    assert lines == [
        "ok    port    free",
        "warn  memory  little -> end others",
        "fail  hub     no",
        "",
        "1 of 3 checks fail: mend them in this order.",
    ]


def test_lines_are_folded_on_a_terminal() -> None:
    long = Check("cache", "warn", "word " * 20, "mend it")
    lines = click.unstyle(render([long], 60)).splitlines()
    assert max(map(len, lines)) < 60
    assert [line[:13] for line in lines[:3]] == ["warn  cache  ", " " * 13, " " * 13]


@pytest.mark.parametrize(
    ("checks", "text"), [([FINE], "All 1 checks are fine."), ([FINE, ODD], "Nothing fails; 1 of 2 checks warn.")]
)
def test_what_it_comes_to(checks: list[Check], text: str) -> None:
    assert summary(checks) == text


def test_json() -> None:
    values = json.loads(to_json([FINE, ODD]))
    assert values["ok"] is True
    assert values["checks"][1] == {"name": "memory", "status": "warn", "text": "little", "remedy": "end others"}
    assert json.loads(to_json([BAD]))["ok"] is False


def test_this_machine_and_a_package(tiny_llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is read and not shown."""
    monkeypatch.setenv("SECRET", "do-not-show")
    package = compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "package")
    result = CliRunner().invoke(doctor, [str(package), "--token-source", "env:SECRET", "--json", "--port", "0"])
    assert result.exit_code == 0, result.output
    found = {check["name"]: check["text"] for check in json.loads(result.output)["checks"]}
    assert {"Python", "processor", "memory", "invariance", "package", "loading", "context"} <= set(found)
    assert (found["hub token"], "do-not-show" in result.output) == ("found (env:SECRET)", False)


def test_what_fails_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CASHE", "elsewhere")
    result = CliRunner().invoke(doctor, [str(tmp_path / "nothing")])
    assert result.exit_code == 1
    assert "did you mean MISTRALRS_CACHE by MISTRALRS_CASHE?" in result.output
    assert "is no package" in result.output


@pytest.mark.parametrize("options", [("--token-source", "secret"), ("--port", "x"), ("--json", "a", "b")])
def test_mistakes(options: tuple[str, ...]) -> None:
    result = CliRunner().invoke(doctor, options)
    assert result.exit_code in (2, 4)
    assert "rror: " in result.output


def test_variables_that_are_read() -> None:
    known = known_variables()
    assert {"MISTRALRS_CACHE", "MISTRALRS_DEBUG", "MISTRALRS_PORT", "MISTRALRS_MAX_SEQS"} <= known
    assert "MISTRALRS_EMIT_CONFIG" in known  # of tune
    assert "MISTRALRS_HELP" not in known
