from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import CliRunner

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.tools.benching.overhead import Overhead, main


def test_a_table_has_a_row_for_each_way_of_sampling(tiny_llama: Any, tmp_path: Path) -> None:
    package = compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "package")
    result = CliRunner().invoke(main, ["-m", str(package), "-g", "3", "-d", "4", "-r", "1", "--threads", "1"])
    assert result.exit_code == 0, result.output
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()]
    assert head == ["step of 16", "ms", "in ONNX Runtime", "in the runner around it", "outside ONNX Runtime"]
    assert [row[0] for row in rows] == ["greedy", "top-p 0.9 for all"]
    assert all(0 < float(row[2]) < float(row[1]) for row in rows)


def test_the_share_is_what_onnx_runtime_does_not_have() -> None:
    assert Overhead(step=10.0, onnxruntime=9.0, packing=0.5).share == 1 - 0.9
