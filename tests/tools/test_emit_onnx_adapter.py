"""`mistralrs-compile lora --emit-onnx-adapter`: files that stock ONNX Runtime applies, and the example that does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_ggml import write_ggml
from tiny_gguf import write_gguf
from tiny_models import write_folder

from mistralrs_onnx.graphs.contract import Manifest
from mistralrs_onnx.tools.compile import main

LLAMA = read_golden()["llama"].model
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "onnx_adapter.py"
PROMPT = "0123"
EMIT = "--emit-onnx-adapter"


def compile_it(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def text(package: Path, *adapter: str) -> str:
    """What the example says."""
    command = [sys.executable, EXAMPLE, package, PROMPT, *adapter]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    for seed, name in enumerate(("one", "two", "three")):
        write_adapter(tmp_path / "adapters" / name, linears(LLAMA.shapes), seed=seed)
    return tmp_path / "adapters"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_folder(LLAMA, tmp_path / "tiny")


def test_the_example_stands_alone() -> None:
    assert "mistralrs" not in EXAMPLE.read_text().replace("mistralrs-onnx is imported", "").replace(
        "PACKAGE: of mistralrs-compile lora --emit-onnx-adapter", ""
    )
    assert len(EXAMPLE.read_text().splitlines()) <= 40


@pytest.mark.parametrize("kind", ["plain", "gguf", "ggml"])
def test_the_example_says_with_an_adapter_what_is_said_with_it_merged(
    kind: str, base: Path, adapters: Path, tmp_path: Path
) -> None:
    command: list[object] = ["lora", "-m", base]
    if kind == "gguf":
        command = ["lora-gguf", "-m", tmp_path, "-f", write_gguf(LLAMA, tmp_path / "tiny.gguf").name]
    if kind == "ggml":
        command = ["lora-ggml", "-m", tmp_path, "-f", write_ggml(LLAMA, tmp_path / "tiny.bin").name, "-g", 2]
    command += ["-a", adapters / "one", "-o"]
    for out, options in (("emitted", [EMIT]), ("merged", [])):
        result = compile_it(*command, tmp_path / out, *options)
        assert result.exit_code == 0, result.output
    emitted, merged = tmp_path / "emitted", tmp_path / "merged"
    assert text(emitted, "one") == text(merged) != text(emitted)


def test_all_of_an_ordering_file_are_written_and_none_is_merged(base: Path, adapters: Path, tmp_path: Path) -> None:
    preload = [{"name": "three", "adapter_model_id": str(adapters)}]
    ordering = {"order": ["two", "one"], "base_model_id": str(base)}
    assert compile_it("plain", "-m", base, "-o", tmp_path / "plain").exit_code == 0
    for values, names in (
        (ordering, {"one", "two"}),
        (ordering | {"preload_adapters": preload}, {"one", "two", "three"}),
    ):
        (tmp_path / "ordering.json").write_text(json.dumps(values))
        said = ["-a", adapters, "--order", tmp_path / "ordering.json", "-o", tmp_path / "out", "--force"]
        assert compile_it("lora", *said, EMIT).exit_code == 0
        assert {path.name for path in (tmp_path / "out/adapters").iterdir()} == {f"{n}.onnx_adapter" for n in names}
        made = Manifest.from_json((tmp_path / "out/manifest.json").read_text())
        assert (made.adapters, made.active_adapters) == ({}, ())
        assert {f"adapters/{name}.onnx_adapter" for name in names} <= set(made.files)
    weights = [(tmp_path / name / "model.onnx.data").read_bytes() for name in ("plain", "out")]
    assert weights[0] == weights[1]


def test_it_says_how_a_program_applies_one(base: Path, adapters: Path, tmp_path: Path) -> None:
    """The lines that are printed run as they are."""
    result = compile_it("lora", "-m", base, "-a", adapters / "one", EMIT, "-o", tmp_path / "out")
    *_, how, load, apply = result.output.splitlines()
    assert str(tmp_path / "out" / "model.onnx") in how
    said: dict[str, object] = {"onnxruntime": onnxruntime}
    for line in (load, apply):
        exec(line.strip(), said)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {name: np.ones((1, 1), np.int64) for name in ("input_ids", "attention_mask", "position_ids")}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.empty((1, value.shape[1], 0, value.shape[3]), np.float32)
    alone, adapted = (session.run(["logits"], feeds, options)[0] for options in (None, said["options"]))
    assert np.abs(alone - adapted).max() > 0.1
    assert compile_it("lora", "-m", base, "-a", adapters / "one", EMIT, "-o", tmp_path / "q", "--quiet").output == ""
    assert (
        "add_active_adapter" not in compile_it("lora", "-m", base, "-a", adapters / "one", "-o", tmp_path / "m").output
    )


def test_a_dry_run_writes_none(base: Path, adapters: Path, tmp_path: Path) -> None:
    assert (
        compile_it("lora", "-m", base, "-a", adapters / "one", EMIT, "-o", tmp_path / "out", "--dry-run").exit_code == 0
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["lora", "-a", "{adapters}/one", "--merge-dtype", "f16", EMIT], 2, "--emit-onnx-adapter merges none"),
        (["plain", EMIT], 2, "No such option"),
        (["lora", "-a", "{adapters}/ä", EMIT], 4, "letters, digits and . _ -, got 'ä'"),
    ],
)
def test_mistakes(arguments: list[str], code: int, complaint: str, base: Path, adapters: Path, tmp_path: Path) -> None:
    write_adapter(adapters / "ä", linears(LLAMA.shapes))
    words = [word.format(adapters=adapters) for word in arguments]
    result = compile_it(*words, "-m", base, "-o", tmp_path / "out")
    assert (result.exit_code, complaint in result.output) == (code, True), result.output
    assert not (tmp_path / "out").exists()
