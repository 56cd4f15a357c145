"""`x-lora`, `x-lora-gguf` and `x-lora-ggml` as they are typed, to compile and to measure; test_serve.py serves them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from golden import read_golden
from tiny_ggml import EPSILON, write_ggml
from tiny_gguf import write_gguf
from tiny_models import IDS, PROMPT, TOLERANCE, write_folder
from tiny_xlora import Layout, TinyXLora, write_xlora
from xlora_serving import answers, compile_xlora, llama_modules, worst, xlora_runner

from mistralrs_onnx.compiler.adapters.xlora import ToMix
from mistralrs_onnx.graphs.contract import XLoraRecord
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.tools.bench import main as bench
from mistralrs_onnx.tools.compile import main as compiling
from mistralrs_onnx.tools.serve import main as serve

LLAMA = read_golden()["llama"].model
MODULES = llama_modules(LLAMA.config)


def invoke(command: click.Group, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def record(package: Path) -> XLoraRecord:
    found = open_package(package).manifest.xlora
    assert found is not None
    return found


def written(folder: Path, layout: Layout = "xlora", base: Path | str = "tiny") -> TinyXLora:
    return write_xlora(folder, MODULES, LLAMA.config["hidden_size"], layout, base=str(base), layerwise_scalings=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(LLAMA, tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def xlora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyXLora:
    """As the training code leaves it, for the base where it is."""
    return written(tmp_path_factory.mktemp("xlora") / "xlora", base=base)


@pytest.fixture(scope="module")
def mixed(base: Path, xlora: TinyXLora, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return compile_xlora(base, ToMix(xlora.folder, xlora.ordering), tmp_path_factory.mktemp("mixed") / "package")


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package without X-LoRA."""
    out = tmp_path_factory.mktemp("plain") / "package"
    assert invoke(compiling, "plain", "-m", base, "-o", out).exit_code == 0
    return out


@pytest.mark.parametrize("kind", ["plain", "gguf", "ggml"])
def test_every_kind_of_base(kind: str, xlora: TinyXLora, tmp_path: Path) -> None:
    """It says what an X-LoRA of the folder of the same weights says."""
    base = write_folder(LLAMA, tmp_path / "base", {"rms_norm_eps": EPSILON} if kind == "ggml" else {})
    command: list[object] = ["x-lora", "-m", base]
    if kind == "gguf":
        command = ["x-lora-gguf", "-m", tmp_path, "-f", write_gguf(LLAMA, tmp_path / "tiny.gguf").name]
    if kind == "ggml":
        command = ["x-lora-ggml", "-m", tmp_path, "-f", write_ggml(LLAMA, tmp_path / "tiny.bin").name, "-g", 2]
    rest = ["-x", xlora.folder, "--order", xlora.ordering, "--accuracy", "float32", "-o", tmp_path / "out"]
    result = invoke(compiling, *command, *rest)
    assert result.exit_code == 0, result.output
    assert record(tmp_path / "out").adapters == xlora.names
    expected = answers(xlora_runner(compile_xlora(base, ToMix(xlora.folder, xlora.ordering), tmp_path / "expected")))
    found = answers(xlora_runner(open_package(tmp_path / "out")))
    assert worst(found[:, : expected.shape[1]], expected) < TOLERANCE


def test_the_ordering_file_may_say_the_base(xlora: TinyXLora, tmp_path: Path) -> None:
    result = invoke(compiling, "x-lora", "-x", xlora.folder, "--order", xlora.ordering, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert open_package(tmp_path / "out").manifest.name == "tiny"


def test_adapters_of_peft_may_lie_elsewhere(base: Path, tmp_path: Path) -> None:
    """PEFT saves the classifier without the adapters that it was trained with."""
    xlora = written(tmp_path / "xlora", "peft")
    command = ["x-lora", "-m", base, "-x", xlora.folder, "--accuracy", "float32"]
    assert invoke(compiling, *command, "-o", tmp_path / "together").exit_code == 0
    for name in ("first", "third"):
        shutil.move(xlora.folder / name, tmp_path / name)
    refused = invoke(compiling, *command, "-o", tmp_path / "refused")
    assert (refused.exit_code, "has no adapter first" in refused.output) == (4, True), refused.output
    given = [word for name in ("third", "first") for word in ("--adapter", f"{name}={tmp_path / name}")]
    assert invoke(compiling, *command, *given, "-o", tmp_path / "apart").exit_code == 0
    assert record(tmp_path / "apart").adapters == ("first", "second", "third")
    together, apart = (answers(xlora_runner(open_package(tmp_path / name))) for name in ("together", "apart"))
    assert (together == apart).all()


@pytest.mark.oracle
def test_what_peft_saves_with_the_adapters_that_it_was_trained_with(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    import xlora_oracles

    names = ("0", "1", "2")
    xlora = write_xlora(tmp_path / "xlora", xlora_oracles.modules_of(base), 64, "peft", names=names)
    model = xlora_oracles.peft_model(base, xlora)
    saved = xlora_oracles.save_as_peft(model, tmp_path / "saved")
    command = ["x-lora", "-m", base, "-x", saved, "--accuracy", "float32", "-o", tmp_path / "out"]
    refused = invoke(compiling, *command)
    assert (refused.exit_code, "(--adapter 0=PATH)" in refused.output) == (4, True), refused.output
    given = [word for name in names for word in ("--adapter", f"{name}={xlora.folder / name}")]
    result = invoke(compiling, *command, *given)
    assert result.exit_code == 0, result.output
    expected = xlora_oracles.step_by_step(model, IDS, PROMPT)
    assert worst(answers(xlora_runner(open_package(tmp_path / "out"))), expected) < TOLERANCE


def test_quantized_on_the_way(xlora: TinyXLora, tmp_path: Path) -> None:
    command = ["--isq", "8", "x-lora", "-x", xlora.folder, "--order", xlora.ordering, "-o", tmp_path / "out"]
    assert invoke(compiling, *command).exit_code == 0
    kept = open_package(tmp_path / "out").manifest.tensors
    assert kept["model.layers.0.mlp.up_proj.weight"].type == "Q8_0"


def test_they_are_measured(xlora: TinyXLora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    short = ["-p", "0", "-g", "3", "-c", "2", "-r", "1", "-o", "json"]
    command = ["x-lora", "-x", xlora.folder, "-o", xlora.ordering]
    results = [invoke(bench, *short, *command), invoke(bench, *short, *command, "--tgt-non-granular-index", 1)]
    [package] = (tmp_path / "cache" / "packages").iterdir()
    results.append(invoke(bench, *short, "compiled", "-m", package, "--tgt-non-granular-index", 2))
    for result in results:
        assert result.exit_code == 0, result.output
        assert [each["model"] for each in json.loads(result.stdout)] == ["tiny, X-LoRA of 3"]


@pytest.mark.parametrize("command", [bench, serve])
def test_from_which_token_scalings_stay_is_of_xlora(command: click.Group, plain: Path, mixed: Package) -> None:
    index = "--tgt-non-granular-index"
    result = invoke(command, "compiled", "-m", plain, index, 3)
    assert (result.exit_code, "has no X-LoRA" in result.output) == (4, True), result.output
    result = invoke(command, "compiled", "-m", mixed.path, index, 0)
    assert (result.exit_code, "x>=1" in result.output) == (2, True), result.output
    for elsewhere in ([index, 1, "demo"], ["plain", "-m", ".", index, 1], ["lora", "-a", ".", index, 1]):
        assert invoke(command, *elsewhere).exit_code == 2


@pytest.mark.parametrize("option", ["--lora-modules mine={}", "--adapter-root {}", "--max-loras 2"])
def test_an_xlora_takes_no_other_adapters(option: str, xlora: TinyXLora, mixed: Package) -> None:
    result = invoke(serve, "-p", 0, *option.format(xlora.folder / "first").split(), "compiled", "-m", mixed.path)
    assert result.exit_code == 4, result.output
    assert "mixes its own adapters (first, second, third) by X-LoRA: load no others beside it" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["-o", "out"], 2, "--xlora-model-id"),
        (["-x", ".", "-o", "out"], 4, "which model? Name it with -m, or an ordering file"),
        (["-m", "{base}", "-x", "/no/where", "-o", "out"], 4, "error: there is no file or folder /no/where"),
        (["-m", "{base}", "-x", "{base}", "-o", "out"], 4, "{base} is no X-LoRA: needed are xlora_config.json and"),
        (["-m", "{base}", "-x", "{xlora}/first", "-o", "out"], 4, "peft_type"),
        (["-m", "{base}", "-x", "{xlora}", "--order", "/no/where", "-o", "out"], 2, "does not exist"),
        (["-m", "{base}", "-x", "{xlora}", "--adapter", "first", "-o", "out"], 2, "must be a name and a folder"),
        (["-m", "{base}", "-x", "{xlora}", *["--adapter", "a={base}"] * 2, "-o", "out"], 2, "has a name twice"),
        (
            ["-m", "{base}", "-x", "{xlora}", "--adapter", "owl={base}", "-o", "out"],
            4,
            "{xlora} mixes no adapter owl: it mixes first, second, third",
        ),
        (["-m", "acme/other", "-x", "{xlora}", "--order", "{order}", "-o", "out"], 4, "is for the base {base}"),
        (["-m", "{base}", "-x", "{xlora}", "--tgt-non-granular-index", "1", "-o", "out"], 2, "No such option"),
        (["-m", "{base}", "-x", "{xlora}", "--emit-onnx-adapter", "-o", "out"], 2, "No such option"),
    ],
)
def test_mistakes_are_one_clear_line(
    arguments: list[str],
    code: int,
    text: str,
    base: Path,
    xlora: TinyXLora,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"base": base, "xlora": xlora.folder, "order": xlora.ordering}
    result = invoke(compiling, "x-lora", *(word.format(**places) for word in arguments))
    assert (result.exit_code, text.format(**places) in result.output) == (code, True), result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
