from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.tools.benching import serving_bench


def test_streams_are_compared_with_the_engine(tiny_llama: Any, tmp_path: Path) -> None:
    package = compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "package")
    options = ["-c", "3", "-p", "8", "-g", "5", "-r", "1", "compiled", "-m", str(package)]
    result = CliRunner().invoke(serving_bench.main, options)
    assert result.exit_code == 0, result.output
    head, _, engine, server, *_ = result.stdout.splitlines()
    assert head == "| 3 streams of 5 | t/s | of the engine |"
    assert engine.startswith("| engine | ")
    assert server.startswith("| server | ")


def test_a_checkpoint_is_compiled_first(tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    file = tiny_llama(tmp_path / "tiny.gguf").write()
    options = ["-c", "1", "-p", "4", "-g", "2", "-r", "1", "gguf", "-m", str(tmp_path), "-f", file.name]
    result = CliRunner().invoke(serving_bench.main, options)
    assert result.exit_code == 0, result.output


def answer(text: str, prompt_tokens: int = 0, cached_tokens: int = 0) -> dict[str, Any]:
    delta = {"choices": [{"delta": {"content": text}}], "usage": None}
    usage = {"prompt_tokens": prompt_tokens, "prompt_tokens_details": {"cached_tokens": cached_tokens}}
    lines = [json.dumps(delta), json.dumps({"choices": [], "usage": usage}), "[DONE]"]
    return {"status": 200, "first": 0.5, "last": 1.0, "text": "".join(f"data: {line}\n\n" for line in lines)}


def test_the_cached_turn_extends_the_first_and_the_other_differs_from_its_first_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conversations: list[list[dict[str, str]]] = []

    def stream(port: int, path: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        conversations.append(bodies[0]["messages"])
        return [answer("hello", 10 * len(conversations), len(conversations))]

    monkeypatch.setattr(serving_bench, "stream", stream)
    cached, uncached = serving_bench.second_turn(1, [" one", " two"], 20)
    first, second, other = conversations
    assert second[: len(first)] == first
    assert second[1] == other[1] == {"role": "assistant", "content": "hello"}
    assert other[0]["content"].endswith(first[0]["content"])
    assert not other[0]["content"].startswith(" ")
    assert other[2] == second[2]
    assert cached == serving_bench.Turn(0.5, 20, 2)
    assert uncached == serving_bench.Turn(0.5, 30, 3)


def test_a_refused_request_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = json.dumps([{"status": 429, "text": "queue_full", "first": 0.1, "last": 0.1}])

    class Done:
        stdout = refused

    monkeypatch.setattr(serving_bench.subprocess, "run", lambda *args, **kwargs: Done())
    with pytest.raises(click.ClickException, match="the server answered 429: queue_full"):
        serving_bench.stream(1, "/v1/completions", [{}])
