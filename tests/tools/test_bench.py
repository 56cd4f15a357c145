from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from tiny_adapters import write_adapter

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.model import LoadOptions
from mistralrs_onnx.tools.bench import main
from mistralrs_onnx.tools.benching.bench_results import COLUMNS, Sheet, on_terminal, row
from mistralrs_onnx.tools.benching.measuring import Result as Measured
from mistralrs_onnx.tools.benching.measuring import Timing, Workload


@pytest.fixture(scope="module")
def package(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    return compile_gguf(tiny_llama(folder / "tiny.gguf").write(), folder / "package")


def bench(package: Path, *options: str) -> Result:
    return CliRunner().invoke(main, [*options, "compiled", "-m", str(package)])


def test_json_has_a_record_for_each_test(package: Path) -> None:
    result = bench(package, "-p", "16", "-g", "4", "-c", "1,2", "-r", "1", "-o", "json")
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    assert [(r["test"], r["concurrency"], r["num_tokens"]) for r in records] == [
        ("pp16", 1, 16),
        ("tg4", 1, 4),
        ("tg4", 2, 8),
    ]
    for record in records:
        assert record["backend"] == "CPU"
        assert record["determinism"] == "invariant"
        assert record["tokens_per_second"] * record["ms_per_token"] == pytest.approx(1000)
        assert record["throughput"] == pytest.approx(record["tokens_per_second"] * record["concurrency"])
        assert 0 < record["ttft_p50_ms"] <= record["ttft_p99_ms"]
        assert record["ttft_ms"] > 0
        is_prefill = record["test"] == "pp16"
        assert all((record[f"tpot{name}_ms"] is None) == is_prefill for name in ("", "_p50", "_p99"))


def test_adapters_are_measured_and_named(tiny_llama: Any, package: Path, tmp_path: Path) -> None:
    tiny = tiny_llama(tmp_path / "unused.gguf")
    for name in ("sql", "poem"):
        write_adapter(tmp_path / name, {"model.layers.0.mlp.up_proj": (tiny.wide, tiny.hidden)})
    modules = [word for name in ("sql", "poem") for word in ("--lora-modules", f"{name}={tmp_path / name}")]
    for options, model in (
        (["--adapter-root", str(tmp_path)], "tiny"),
        (modules[:2], "tiny, adapter sql"),
        (modules, "tiny, 2 adapters"),
    ):
        result = bench(package, *options, "-p", "0", "-g", "2", "-c", "2", "-r", "1", "-o", "json")
        assert result.exit_code == 0, result.output
        assert [record["model"] for record in json.loads(result.stdout)] == [model]


def test_csv_has_the_same_columns_as_json(package: Path) -> None:
    options = ("-p", "0", "-g", "3", "-c", "2", "-r", "2", "-d", "10", "--threads", "1", "--determinism", "fast")
    result = bench(package, *options, "-o", "csv")
    assert result.exit_code == 0, result.output
    [record] = csv.DictReader(io.StringIO(result.stdout))
    assert (record["test"], record["depth"]) == ("tg3 @ d10", "10")
    assert 6 <= int(record["num_tokens"]) <= 12  # those that came while both requests ran
    assert (record["threads"], record["determinism"], record["repetitions"]) == ("1", "fast", "2")


def test_without_a_terminal_the_table_is_markdown(package: Path) -> None:
    result = bench(package, "-p", "8", "-g", "0", "-r", "2")
    assert result.exit_code == 0, result.output
    head, rule, line = result.stdout.splitlines()
    assert head == "| model | backend | test | t/s | ms/t | concurrency | throughput/s | TTFT ms | TPOT ms |"
    assert rule == "| --- | --- | --- | --: | --: | --: | --: | --: | --: |"
    assert " | CPU | pp8 | " in line
    assert line.endswith(" | - |")
    assert " ± " in line


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["-p", "0", "-g", "0"], "nothing to measure"),
        (["-c", "1,x"], "must be numbers of at least 1 with commas between"),
        (["-c", "0"], "must be numbers of at least 1"),
        (["-c", "32"], "add --max-seqs 32"),
        (["-d", "5", "--no-prefix-cache"], "leave out --no-prefix-cache"),
        (["--compare", "llama"], "'llama' is none of llama.cpp, mistralrs, genai; did you mean llama.cpp?"),
        (["--warmup", "-1"], "x>=0"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_loaded(options: list[str], complaint: str) -> None:
    result = bench(Path("there-is-no-package"), *options)
    assert result.exit_code == 2
    assert complaint in result.output


def test_a_context_that_is_too_short_is_one_line(package: Path) -> None:
    result = bench(package, "-p", "512", "-g", "0")
    assert result.exit_code == 1
    assert "error: the context holds 256 tokens" in result.output


def test_a_terminal_of_80_columns_shows_every_number() -> None:
    timings = (Timing(2048, 2.0, (0.0123456,), (0.0456,)), Timing(2048, 2.5, (0.0123456,), (0.0456,)))
    cells = row(Measured(Workload("tg", 128, 500, 16), timings), "SmolLM2-135M-Instruct.Q4_1", LoadOptions())
    console = Console(width=80)
    with console.capture() as capture:
        console.print(on_terminal(Sheet(COLUMNS, [cells], [])))
    assert all(text in capture.get() for text in cells)
    assert all(word in capture.get() for word in ("concur-", "through-", "TTFT", "TPOT"))


def test_measuring_in_process_loads_no_web_framework() -> None:
    code = "import sys, mistralrs_onnx.tools.bench; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "mistralrs_onnx.tools.benching.http_bench" in loaded
    assert not set(loaded) & {"sanic", "httpx", "openai", "mistralrs_onnx.server"}


def test_the_long_names_are_those_of_mistral_rs(package: Path) -> None:
    words = "--n-prompt 4 --n-gen 2 --concurrency 1,2 --repetitions 1 --num-device-layers 0 --output json"
    result = bench(package, *words.split())
    assert result.exit_code == 0, result.output
    assert [record["test"] for record in json.loads(result.stdout)] == ["pp4", "tg2", "tg2"]


def test_help_is_one_screen() -> None:
    for page in ([], ["http"]):
        lines = CliRunner().invoke(main, [*page, "--help"], terminal_width=100).output.splitlines()
        assert len(lines) <= 40
        assert max(map(len, lines)) <= 120
