from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mistralrs_onnx.tools import peers
from mistralrs_onnx.tools.measuring import Workload
from mistralrs_onnx.tools.peer_llama import llama_batched_bench, llama_bench, output_of

ARGS = "import json, sys\nargs = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))\n"
LLAMA_BENCH = ARGS + "print(json.dumps([{'avg_ts': int(args['-p']) + 1000 * int(args['-n']) + int(args['-d'])}]))"
BATCHED = ARGS + "print('loading'); print(json.dumps({'speed_tg': 1.5, 'asked': args}))"
MISTRALRS = """
    from dataclasses import dataclass
    from types import SimpleNamespace

    @dataclass
    class ChatCompletionRequest:
        messages: str
        model: str
        max_tokens: int
        temperature: float
        ignore_eos: bool
        stream: bool

    class Which:
        @staticmethod
        def GGUF(folder, file):
            print("loading", file)

    class Runner:
        def __init__(self, which, max_seqs, prefix_cache_n, token_source):
            assert prefix_cache_n == 0

        def send_chat_completion_request(self, request):
            usage = SimpleNamespace(prompt_tokens=request.messages.count(" ") + 3)
            for i in range(request.max_tokens):
                yield SimpleNamespace(usage=usage if i + 1 == request.max_tokens else None)
"""


def program(path: Path, source: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(0o755)
    return path


def test_llama_bench_is_asked_for_each_workload_alone(tmp_path: Path) -> None:
    binary = program(tmp_path / "llama-bench", LLAMA_BENCH)
    workloads = [Workload("pp", 512), Workload("tg", 64, depth=100)]
    assert llama_bench(binary, Path("model.gguf"), 2, workloads) == {workloads[0]: 512, workloads[1]: 64100}


def test_batched_bench_gets_room_for_every_sequence(tmp_path: Path) -> None:
    note = f"; open({str(tmp_path / 'args')!r}, 'w').write(str(args))"
    binary = program(tmp_path / "llama-batched-bench", BATCHED + note)
    workload = Workload("tg", 64, depth=500, concurrency=16)
    assert llama_batched_bench(binary, Path("model.gguf"), 2, [workload]) == {workload: 1.5}
    assert f"'-c': '{16 * 768}'" in (tmp_path / "args").read_text()


def test_a_failing_peer_is_named_with_what_it_said(tmp_path: Path) -> None:
    binary = program(tmp_path / "llama-bench", "import sys; sys.exit('no such model')")
    with pytest.raises(click.ClickException, match="llama-bench ended with 1: no such model"):
        output_of([binary])
    with pytest.raises(click.ClickException, match="nothing-here"):
        output_of([tmp_path / "nothing-here"])


def test_a_cell_is_a_rate_and_a_ratio_for_each_peer() -> None:
    one, many = Workload("tg", 64), Workload("tg", 64, concurrency=16)
    names = ["ours, invariant", "ours, fast", "llama.cpp"]
    medians = {("ours, invariant", one): 100.0, ("ours, fast", one): 110.0, ("llama.cpp", one): 80.0}
    assert peers.cells(one, names, medians) == ["tg64", "1", "100.0", "110.0", "80.0", "1.25"]
    assert peers.cells(many, names, {("ours, invariant", many): 7.0}) == ["tg64", "16", "7.0", "-", "-", "-"]


def test_all_take_turns_and_share_one_table(tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mistralrs.py").write_text(dedent(MISTRALRS))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(peers, "single_token_words", lambda tokenizer: [" a"])
    options = [
        *("--checkpoint", str(tiny_llama(tmp_path / "tiny.gguf").write())),
        *("--llama-bench", str(program(tmp_path / "llama-bench", LLAMA_BENCH))),
        *("--llama-batched-bench", str(program(tmp_path / "llama-batched-bench", BATCHED))),
        *("--mistralrs-python", sys.executable),
        *("-r", "2", "--mistralrs-repetitions", "1", "-p", "8", "-g", "3", "-d", "4", "-c", "1,2"),
    ]
    result = CliRunner().invoke(peers.main, options)
    assert result.exit_code == 0, result.output
    turns = [line.split(" ...")[0] for line in result.stderr.splitlines() if "repetition" in line]
    assert turns == [
        "ours, invariant, repetition 1 of 2",
        "ours, fast, repetition 1 of 2",
        "llama.cpp, repetition 1 of 2",
        "mistralrs, repetition 1 of 1",
        "ours, invariant, repetition 2 of 2",
        "ours, fast, repetition 2 of 2",
        "llama.cpp, repetition 2 of 2",
    ]
    table, overhead = result.stdout.split("\n\n")
    head, _, prefill, alone, both = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert head[2:6] == ["ours, invariant, t/s", "ours, fast, t/s", "llama.cpp, t/s", "mistralrs, t/s"]
    assert [line[:2] for line in (prefill, alone, both)] == [["pp8", "1"], ["tg3 @ d4", "1"], ["tg3 @ d4", "2"]]
    assert [line[4] for line in (prefill, alone, both)] == ["8.0", "3004.0", "1.5"]
    assert float(prefill[6]) == pytest.approx(float(prefill[2]) / 8, rel=0.01)
    assert [line.split(" | ")[0] for line in overhead.splitlines()[2:]] == ["| greedy", "| top-p 0.9 for all"]
