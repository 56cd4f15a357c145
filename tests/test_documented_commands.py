"""What README and quickstart tell people to type is typed, in a venv that has the built wheel and no checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from golden import read_golden
from tiny_models import write_folder

ROOT = Path(__file__).parent.parent
README, QUICKSTART = ROOT / "README.md", ROOT / "docs" / "quickstart.md"
PORT = "1234"  # as it is written
GUARD = 120


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)]


def build_wheel(folder: Path) -> Path:
    copy = folder / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "tests", "*.egg-info", "docs"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, copy]
    subprocess.run(command, check=True, timeout=GUARD)
    [wheel] = folder.glob("*.whl")
    return wheel


def fresh_venv(folder: Path, wheel: Path) -> Path:
    """Has the wheel of its own, and what that depends on from where the tests run, which is quicker than the index."""
    venv.create(folder, with_pip=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    subprocess.run(
        [folder / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True, timeout=GUARD
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


class Terminal:
    """Somebody at a shell who has two checkpoints in ~/models; servers that they start run until the next one."""

    def __init__(self, bin_folder: Path, home: Path) -> None:
        self.home = home
        self.work = home / "work"
        self.work.mkdir(parents=True)
        self._server: subprocess.Popen[str] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MISTRALRS_", "PYTHON", "HF_"))}
        self._environment = {
            **kept,
            "HOME": str(home),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
        }

    def type(self, block: Block) -> str:
        """What it prints. Asserts that all goes well."""
        text = block.text.replace(PORT, self._port)
        if block.language == "python":
            return self._run(["python", "-c", text])
        if text.startswith("make "):
            return "".join(self._make(line.split()[1]) for line in text.splitlines())
        if text.startswith("mistralrs-server"):
            return self._serve(text)
        *before, last = re.split(r"^(?=mistralrs-server)", text, maxsplit=1, flags=re.MULTILINE)
        printed = self._run(["bash", "-euo", "pipefail", "-c", before[0] if before else last])
        return printed + (self._serve(last) if before else "")

    def _make(self, target: str) -> str:
        """A recipe ends with a command of ours, which is run here but for installing and talking."""
        *_, last = self._run(["make", "-n", "-C", str(ROOT), target, f"PORT={self._port}"]).split(".venv/bin/")
        command = last.splitlines()[0]
        return self._serve(command) if command.startswith("mistralrs-server") and " -i" not in command else command

    def _run(self, command: list[str]) -> str:
        program = shutil.which(command[0], path=self._environment["PATH"]) or command[0]
        found = subprocess.run(
            [program, *command[1:]], cwd=self.work, env=self._environment, capture_output=True, text=True, timeout=GUARD
        )
        assert found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
        return found.stdout

    def _serve(self, command: str) -> str:
        self.stop()
        assert len(command.replace("\\\n", " ").strip().splitlines()) == 1, f"nothing comes behind a server: {command}"
        self._server = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.work, env=self._environment, stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line.startswith("Serving on"), line
        return line

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            assert self._server.wait(GUARD) in (0, 130)
            self._server = None


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh_venv(tmp_path_factory.mktemp("venv"), build_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.fixture
def terminal(programs: Path, tmp_path: Path, smollm2_gguf: Path) -> Iterator[Terminal]:
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    (models / "model.Q4_1.gguf").symlink_to(smollm2_gguf)
    write_folder(read_golden()["mistral-v0.2"].model, models / "mistral-7b")
    terminal = Terminal(programs, tmp_path / "home")
    yield terminal
    terminal.stop()


@pytest.mark.parametrize("page", [README, QUICKSTART], ids=lambda page: page.name)
def test_every_command_works(terminal: Terminal, page: Path) -> None:
    found = blocks(page)
    assert len(found) >= 5
    for block in found:
        printed = terminal.type(block)
        if "curl" in block.text:
            answer = json.loads(printed)
            assert answer["choices"][0].get("text") or answer["choices"][0]["message"]["content"], answer


def test_the_wheel_is_what_runs(programs: Path, tmp_path: Path) -> None:
    terminal = Terminal(programs, tmp_path / "home")
    place = terminal.type(Block("python", "import mistralrs_onnx; print(mistralrs_onnx.__file__)"))
    assert Path(place).is_relative_to(programs.parent)


IS_COMPILED = sysconfig.get_platform() == "linux-x86_64" and shutil.which(os.environ.get("CXX", "g++"))


@pytest.mark.skipif(not IS_COMPILED, reason="nothing is compiled here")
def test_the_wheel_has_the_kernels(programs: Path, tmp_path: Path) -> None:
    terminal = Terminal(programs, tmp_path / "home")
    code = "from mistralrs_onnx.runtime import native; print(native.kernel_problem())"
    assert "not compiled" not in terminal.type(Block("python", code))


def test_links_lead_somewhere() -> None:
    for page in [README, *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_a_fresh_clone_serves(tmp_path: Path) -> None:
    """`make demo` with nothing there: a venv, dependencies from the package index, a package, a server."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True, timeout=GUARD)
    terminal = Terminal(Path("/usr/bin"), tmp_path / "home")
    server = subprocess.Popen(
        ["make", "demo", f"PYTHON={sys.executable}", f"PORT={terminal._port}"],
        cwd=clone,
        env=terminal._environment | {"HF_HUB_OFFLINE": "0"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        assert any(line.startswith("Serving on") for line in lines)
        [curl] = [block for block in blocks(README) if "curl" in block.text]
        assert json.loads(terminal.type(curl))["choices"][0]["message"]["content"]
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(GUARD)
