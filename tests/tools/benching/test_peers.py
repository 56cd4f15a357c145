"""Engines on this machine, found or said to be missing, and asked through fakes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from tiny_adapters import write_adapter

from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.sources.source import ModelSource
from mistralrs_onnx.tools.bench import main
from mistralrs_onnx.tools.benching import peers
from mistralrs_onnx.tools.benching.measuring import Workload
from mistralrs_onnx.tools.benching.peer_llama import llama_batched_bench, llama_bench, output_of
from mistralrs_onnx.tools.benching.peers import AbsentError, gguf_file
from mistralrs_onnx.tools.cli.options import CompiledNow
from mistralrs_onnx.which import Chosen

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
GENAI = """
    import json

    class Config:
        def __init__(self, folder):
            self.folder = folder

        def overlay(self, text):
            options = json.loads(text)["model"]["decoder"]["session_options"]
            assert options == {"intra_op_num_threads": 2}

    class Model:
        def __init__(self, config):
            print("loading", config.folder)

    class GeneratorParams:
        def __init__(self, model):
            self.options = {}

        def set_search_options(self, **options):
            self.options = options

    class Generator:
        def __init__(self, model, params):
            self.width = params.options["batch_size"]
            self.left = params.options["max_length"]
            assert params.options["min_length"] == self.left

        def append_tokens(self, tokens):
            assert len(tokens) == self.width
            self.left -= tokens.shape[1]

        def generate_next_token(self):
            self.left -= 1
            assert self.left >= 0
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without engines, whatever is installed here."""
    found = peers.find_spec
    monkeypatch.setattr(peers, "find_spec", lambda name: found(name) if (tmp_path / f"{name}.py").exists() else None)
    monkeypatch.setattr(peers.sys, "executable", sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))


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


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGILL, "instructions that this processor lacks"), (signal.SIGKILL, "ended by SIGKILL")],
)
def test_a_peer_that_a_signal_ends_says_so(tmp_path: Path, number: int, said: str) -> None:
    binary = program(tmp_path / "llama-bench", f"import os; os.kill(os.getpid(), {number})")
    with pytest.raises(click.ClickException, match=said):
        output_of([binary])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda _: lambda: None, "it reads no packages: name the GGUF file"),
        (lambda file: chosen(ModelSource("plain", str(file.parent))), "this is a checkpoint of kind plain"),
        (lambda file: chosen(gguf(file), CompileOptions(isq=Isq("Q4_0"))), "which --isq changes: leave it out"),
    ],
)
def test_what_others_cannot_read(change: Callable[[Path], Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(AbsentError, match=complaint):
        gguf_file(change(tmp_path / "tiny.gguf"))


def gguf(file: Path) -> ModelSource:
    return ModelSource("gguf", str(file.parent), file.name)


def chosen(source: ModelSource, options: CompileOptions = CompileOptions()) -> CompiledNow:
    return CompiledNow(Chosen(source, options))


def test_the_file_that_all_read(tiny_llama: Any, tmp_path: Path) -> None:
    file = tiny_llama(tmp_path / "tiny.gguf").write()
    assert gguf_file(chosen(gguf(file))) == file


def compare(tiny_llama: Any, folder: Path, names: str, *options: str) -> Result:
    file = tiny_llama(folder / "tiny.gguf").write()
    words = ["--compare", names, "-p", "8", "-g", "3", "-c", "1,2", "--threads", "2", *options]
    return CliRunner().invoke(main, [*words, "gguf", "-m", str(folder), "-f", file.name])


def test_all_take_turns_and_share_one_table(tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mistralrs.py").write_text(dedent(MISTRALRS))
    (tmp_path / "onnxruntime_genai.py").write_text(dedent(GENAI))
    program(tmp_path / "llama-bench", LLAMA_BENCH)
    program(tmp_path / "llama-batched-bench", BATCHED)
    monkeypatch.setattr(peers, "single_token_words", lambda tokenizer: [" a"])
    result = compare(tiny_llama, tmp_path, "llama.cpp,mistralrs,genai", "-r", "2", "-d", "4", "-o", "md")
    assert result.exit_code == 0, result.output
    turns = [line.split(" ...")[0] for line in result.stderr.splitlines() if "repetition" in line]
    names = ["ours", "llama.cpp", "mistralrs", "genai"]
    assert turns == [f"{name}, repetition {i} of 2" for i in (1, 2) for name in names]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()]
    head, _, prefill, one, both = lines
    assert head == [
        "model",
        "backend",
        "test",
        "concurrency",
        "ours, t/s",
        *(c for name in names[1:] for c in (f"{name}, t/s", f"ours / {name}")),
    ]
    assert [line[2:4] for line in (prefill, one, both)] == [["pp8 @ d4", "1"], ["tg3 @ d4", "1"], ["tg3 @ d4", "2"]]
    assert [line[5] for line in (prefill, one, both)] == ["12.0", "3004", "1.5"]
    assert float(prefill[6]) == pytest.approx(float(prefill[4]) / 12, rel=0.01)
    assert (prefill[7], prefill[8]) == ("-", "-")  # it cannot time prompts that go on
    assert all(float(line[9]) > 0 for line in (prefill, one, both))


def test_who_is_missing_is_named_and_the_others_go_on(tiny_llama: Any, tmp_path: Path) -> None:
    program(tmp_path / "llama-bench", LLAMA_BENCH)
    result = compare(tiny_llama, tmp_path, "genai,mistralrs,llama.cpp", "-r", "1", "-o", "json")
    assert result.exit_code == 0, result.output
    assert "genai is left out: the Python package onnxruntime_genai is not installed" in result.stderr
    assert "pip install onnxruntime-genai" in result.stderr
    assert "mistralrs is left out: the Python package mistralrs is not installed" in result.stderr
    records = json.loads(result.stdout)
    assert [record["llama.cpp throughput_median"] for record in records] == [8, 3000, None]
    assert records[0]["ours / llama.cpp"] == pytest.approx(records[0]["throughput_median"] / 8)
    assert records[2]["ours / llama.cpp"] is None
    assert "genai throughput_median" not in records[0]


def test_with_nobody_left_it_is_an_error(tiny_llama: Any, tmp_path: Path) -> None:
    result = compare(tiny_llama, tmp_path, "llama.cpp", "-r", "1")
    assert result.exit_code == 1
    assert "llama.cpp is left out: neither llama-bench nor llama-batched-bench is on the PATH" in result.stderr
    assert "Error: nobody is left to compare with" in result.stderr
    assert result.stdout == ""


def test_a_package_is_for_genai_alone(tiny_llama: Any, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime_genai.py").write_text(dedent(GENAI))
    package = compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "package")
    words = ["--compare", "mistralrs,genai", "-p", "4", "-g", "0", "-r", "1", "--threads", "2", "-o", "csv"]
    result = CliRunner().invoke(main, [*words, "compiled", "-m", str(package)])
    assert result.exit_code == 0, result.output
    assert "mistralrs is left out: it reads no packages: name the GGUF file" in result.stderr
    assert result.stdout.splitlines()[0].endswith("throughput_median,genai throughput_median,ours / genai")


def test_adapters_are_not_compared(tiny_llama: Any, tmp_path: Path) -> None:
    tiny = tiny_llama(tmp_path / "unused.gguf")
    write_adapter(tmp_path / "sql", {"model.layers.0.mlp.up_proj": (tiny.wide, tiny.hidden)})
    program(tmp_path / "llama-bench", LLAMA_BENCH)
    result = compare(tiny_llama, tmp_path, "llama.cpp", "--lora-modules", f"sql={tmp_path / 'sql'}")
    assert result.exit_code == 2
    assert "--compare runs models without adapters: leave the adapters out" in result.stderr
