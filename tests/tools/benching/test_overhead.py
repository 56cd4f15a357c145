from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from click.testing import CliRunner

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.tools.benching.measuring import Mark
from mistralrs_onnx.tools.benching.overhead import Intervals, main


def test_a_table_has_a_row_for_each_way_of_sampling(tiny_llama: Any, tmp_path: Path) -> None:
    package = compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "package")
    settings = "greedy", "top-p 0.9, penalties, DRY, 20 logprobs"
    words = [word for setting in settings for word in ("-s", setting)]
    result = CliRunner().invoke(main, ["-m", str(package), "-g", "3", "-d", "4", "-r", "1", "--threads", "1", *words])
    assert result.exit_code == 0, result.output
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()]
    assert head == ["step of 16", "ms", "in ONNX Runtime", "in the runner around it", "in the sampler", "share"]
    assert tuple(row[0] for row in rows) == settings
    for _, step, *parts, share in rows:
        assert 0 < sum(map(float, parts)) < float(step)
        assert 0 < float(share.removesuffix(" %")) < 100


def mark() -> Mark:
    return Mark(perf_counter(), 0, 0.0)


def test_intervals_count_that_lie_between_marks() -> None:
    intervals, before = Intervals(), mark()
    with intervals.note():
        pass
    after = mark()
    with intervals.note():
        pass
    assert len(intervals.between(before, after)) == 1
    assert len(intervals.between(before, mark())) == 2
