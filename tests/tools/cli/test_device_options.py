"""Where a model runs, on the command line, in the environment and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_lines import handed_on, invoke

from mistralrs_onnx.model import LoadOptions
from mistralrs_onnx.tools.serve import main as serve


def loading(*arguments: str) -> LoadOptions:
    found: LoadOptions = handed_on("server", *arguments, "demo")[0].loading
    return found


@pytest.mark.parametrize(("said", "device"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:2", "cuda:2")])
def test_devices(said: str, device: str) -> None:
    assert loading("--device", said).device == device


def test_keys_and_values_are_float16_on_cuda() -> None:
    assert loading().kv_dtype == "float32"
    assert loading("--device", "cuda").kv_dtype == "float16"
    assert loading("--device", "cuda", "--kv-dtype", "float16").kv_dtype == "float16"


@pytest.mark.parametrize(
    "words",
    [["--kv-dtype", "float32"], ["--determinism", "fast"], ["--determinism", "invariant"]],
)
def test_what_is_of_the_cpu_is_refused_beside_cuda(words: list[str]) -> None:
    refused = invoke("server", "--device", "cuda:1", *words, "demo")
    assert refused.exit_code == 2
    assert f"{' '.join(words)} is of the CPU: leave it out on cuda:1" in refused.output
    handed_on("server", "--device", "cpu", *words, "demo")


def test_no_other_device_is_known() -> None:
    refused = invoke("server", "--device", "gpu", "demo")
    assert (refused.exit_code, "device must be cpu, cuda or cuda:N, got 'gpu'" in refused.output) == (2, True)


def test_a_file_may_say_it(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('device = "cuda:3"\n')
    found = CliRunner().invoke(serve, ["--config", str(file), "--print-config", "demo"])
    assert "cuda:3" in found.output, found.output
    assert handed_on("server", "--config", str(file), "demo")[0].loading.device == "cuda:3"


def test_nothing_is_compiled_for_a_device_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: Any) -> None:
        raise AssertionError("it was")

    monkeypatch.setattr("mistralrs_onnx.tools.cli.options.CompiledNow.__call__", compiled)
    for command in ("server", "bench"):
        refused = invoke(command, "--device", "cuda", *(["-i"] if command == "server" else []), "demo")
        assert refused.exit_code == 1
        assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in refused.output


def test_rivals_are_on_the_cpu() -> None:
    refused = invoke("bench", "--device", "cuda", "--compare", "genai", "demo")
    assert (refused.exit_code, "--compare is with others on the CPU" in refused.output) == (2, True)
