"""`mistralrs-onnx inspect` as it is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.tools.main import main


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


@pytest.fixture(scope="module")
def made(tiny_llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    compile_gguf(tiny_llama(folder / "tiny.gguf", {"attn_q": "Q4_0"}).write(), folder / "tiny")
    return folder


@pytest.fixture
def package(made: Path, tmp_path: Path) -> Path:
    """Beside the file that it was made of."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True) / "tiny"


def test_a_package_in_sections(package: Path) -> None:
    result = inspect(package)
    assert result.exit_code == 0, result.output
    titles = [line for line in result.output.splitlines() if line and not line.startswith(" ") and "  " not in line]
    for title in ("Tensors", "Sizes", "Graphs", "Operators", "Functions", "Inputs", "Outputs", "Files"):
        assert title in titles
    assert "\n  layers.0-1" in result.output
    assert "past_key_values.0-1.key" in result.output
    assert "\x1b" not in result.output


def test_the_first_line_says_what_it_is(package: Path, tmp_path: Path) -> None:
    assert inspect(package).output.startswith(f"package {package}\nname ")
    assert inspect(package / "engine.onnx").output.startswith(f"graph {package / 'engine.onnx'}\n")
    assert inspect(tmp_path / "tiny.gguf").output.startswith(f"gguf {tmp_path / 'tiny.gguf'}\n")


def test_everything_for_programs(package: Path) -> None:
    found = json.loads(inspect("--json", package).output)
    assert (found["kind"], found["facts"]["context"]) == ("package", 256)
    assert {"name": "model.norm.weight", "type": "F32", "shape": [64], "num_bytes": 256} in found["tensors"]
    assert found["graphs"][0]["inputs"][0]["name"] == "input_ids"
    assert {file["name"] for file in found["files"]} >= {"model.onnx.data", "engine.onnx"}


def test_sums_that_are_right(package: Path, tmp_path: Path) -> None:
    assert inspect("--verify", package).output.endswith("files have the sums that are recorded.\n")
    result = inspect("--verify", tmp_path / "tiny.gguf")
    assert result.output.endswith("0 of 1 sums compared; for the other files none is recorded.\n")


def test_sums_that_differ_end_with_4(package: Path) -> None:
    content = bytearray((package / "model.onnx.data").read_bytes())
    content[0] ^= 1
    (package / "model.onnx.data").write_bytes(content)
    assert inspect(package).exit_code == 0
    for arguments in (("--verify", package), ("--verify", "--json", package)):
        result = inspect(*arguments)
        assert (result.exit_code, "model.onnx.data has another sha256" in result.stderr) == (4, True)


def test_a_file_of_another_size_is_noticed_at_once(package: Path) -> None:
    (package / "config.json").write_text("")
    result = inspect(package)
    assert (result.exit_code, "config.json has 0 bytes" in result.stderr) == (4, True)


def test_a_package_of_the_cache_by_its_name(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "packages").mkdir(parents=True)
    package.rename(tmp_path / "cache" / "packages" / "tiny-1")
    assert inspect("tiny-1").exit_code == 0
    assert inspect("../packages/tiny-1").exit_code == 2


@pytest.mark.parametrize("name", ["none", "no/where", "x" * 300])
def test_a_path_that_leads_nowhere(name: str) -> None:
    result = inspect(name)
    assert (result.exit_code, "no such file or folder" in result.output) == (2, True)


def test_a_file_of_no_kind(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    result = inspect(tmp_path / "text")
    assert (result.exit_code, "is none of these" in result.output) == (4, True)
