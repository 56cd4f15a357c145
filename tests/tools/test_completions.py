"""What shells run to complete our commands, run by a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mistralrs_onnx.tools.completions import INSTALL, commands
from mistralrs_onnx.tools.main import main

ASK = """
eval "$(mistralrs-onnx completions bash)"
ask() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _mistralrs_onnx_completion "$1"
    echo "${COMPREPLY[*]}"
}
"""


def printed(shell: str) -> str:
    result = CliRunner().invoke(main, ["completions", shell])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("shell", INSTALL)
def test_a_script_completes_every_command_and_says_how_to_install_it(shell: str) -> None:
    text = printed(shell)
    assert text.splitlines()[1] == f"#   {INSTALL[shell][1]}"
    assert {"mistralrs-onnx", "mistralrs-compile", "mistralrs-server", "mistralrs-bench"} <= set(commands())
    for command in commands():
        assert f"_{command.replace('-', '_')}_completion" in text


def test_an_unknown_shell_is_refused() -> None:
    assert CliRunner().invoke(main, ["completions", "csh"]).exit_code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ('mistralrs-onnx "co"', "compile completions"),
        ("mistralrs-onnx --vers", "--version"),
        ('mistralrs-onnx completions ""', "bash zsh fish"),
        ("mistralrs-onnx cache del", "delete"),
    ],
)
def test_bash_completes(typed: str, expected: str) -> None:
    """With the commands that stand beside this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = f"{ASK}ask {typed}"
    done = subprocess.run(["bash", "--norc", "-c", script], env=os.environ | {"PATH": path}, capture_output=True)
    assert done.stdout.decode().strip() == expected, done.stderr.decode()
