"""The examples of LLM, AsyncLLM and LlamaIndex run, on a tiny model."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_packages import tiny_package

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


@pytest.fixture(scope="module")
def package(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tiny_llama, tmp_path_factory.mktemp("examples"))


def printed(name: str, package: Path) -> list[str]:
    command = [sys.executable, EXAMPLES / name, package]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.splitlines()


def test_many_prompts_in_one_call(package: Path) -> None:
    lines = printed("llm.py", package)
    assert lines[0].startswith("'The capital of France is' -> '")
    assert lines[lines.index("An answer that keeps to a form:") + 1] in ("yes", "no")


def test_many_tasks_of_an_event_loop(package: Path) -> None:
    lines = printed("async_llm.py", package)
    assert {line[:4] for line in lines[:-1]} == {"Ann:", "Ben:"}
    assert lines[-1].startswith("aborted after ")
    assert "(abort)" in lines[-1]


@pytest.mark.oracle
@pytest.mark.skipif(find_spec("llama_index") is None, reason="needs llama-index-core (extra llama-index)")
def test_a_chat_engine_of_llama_index(package: Path) -> None:
    assert len(printed("llama_index_chat.py", package)) >= 4
