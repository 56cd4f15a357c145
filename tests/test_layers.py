"""The arrows between folders: who may import whom, and that nobody imports a folder by its bare name."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "mistralrs_onnx"
MAY_IMPORT = {
    "ops": set(),
    "graphs": {"ops"},
    "compiler": {"ops", "graphs"},
    "runtime": {"graphs.contract"},
    "api": {"ops", "graphs", "compiler", "runtime"},
    "server": {"api", "runtime"},
    "tools": {"ops", "graphs", "compiler", "runtime", "api", "server"},
}
WEB = {"sanic"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Absolute names of modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> str | None:
    """The folder of one of our modules, with `.contract` for the part that all may see; `api` is the root package."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    if parts[1:3] == ["graphs", "contract"]:
        return "graphs.contract"
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "api"


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    allowed = MAY_IMPORT[folder] | {folder}
    for path in sources(folder):
        found = {layer(name) for name in imported(path)} - {None}
        wrong = {name for name in found if name not in allowed and name.split(".")[0] not in allowed}
        assert not wrong, f"{path.relative_to(ROOT)} imports from {wrong}"


def test_nobody_imports_a_folder_by_its_bare_name() -> None:
    for folder in [*MAY_IMPORT, "tests", "examples"]:
        for path in sources(folder):
            bare = {name for name in imported(path) if name.split(".")[0] in MAY_IMPORT}
            assert not bare, f"{path.relative_to(ROOT)} imports {bare}: write {PACKAGE}.{sorted(bare)[0]}"


def reached(module: str) -> set[str]:
    """Names of all modules that importing one of ours loads, in a fresh interpreter."""
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_runtime_loads_no_compiler_and_no_onnx() -> None:
    loaded = reached(f"{PACKAGE}.runtime.runner")
    assert not loaded & {"onnx", "onnx_ir", "onnxscript", f"{PACKAGE}.compiler", f"{PACKAGE}.ops"}


def test_compiling_loads_no_web_framework_and_no_runtime_library() -> None:
    loaded = reached(
        f"{PACKAGE}.tools.compile, {PACKAGE}.tools.making, {PACKAGE}.tools.cli.choosing, {PACKAGE}.caching.cache"
    )
    assert not loaded & {*WEB, "onnxruntime"}


@pytest.mark.parametrize("command", ["compile", "serve"])
def test_help_loads_neither_compiler_nor_engine(command: str) -> None:
    """So that it, and shells that complete words, wait for nothing."""
    assert not reached(f"{PACKAGE}.tools.{command}") & {*WEB, "onnx", "numpy", "tokenizers", "pydantic", "rich"}
