"""`mistralrs-compile` as it is typed: every kind of checkpoint, every option, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder

from mistralrs_onnx.graphs.contract import Manifest
from mistralrs_onnx.tools.cli.checkpoints import COMMANDS
from mistralrs_onnx.tools.compile import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(read_golden()["llama"].model, tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def gguf(tiny_llama, tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "tiny.gguf").write()


def compile_it(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def manifest(package: Path) -> Manifest:
    return Manifest.from_json((package / "manifest.json").read_text())


def matrix_types(package: Path) -> set[str]:
    return {record.type for record in manifest(package).tensors.values() if len(record.shape) == 2}


def test_a_folder_becomes_a_package_and_says_how_to_serve_it(folder: Path, tmp_path: Path) -> None:
    result = compile_it("plain", "-m", folder, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"Serve it with: mistralrs-server compiled -m {tmp_path / 'out'}" in result.output
    assert (manifest(tmp_path / "out").name, matrix_types(tmp_path / "out")) == ("tiny", {"F32"})


def test_dense_weights_in_another_type(folder: Path, tmp_path: Path) -> None:
    assert compile_it("plain", "-m", folder, "-d", "f16", "-o", tmp_path / "out", "--quiet").output == ""
    assert matrix_types(tmp_path / "out") == {"F16"}


@pytest.mark.parametrize(
    ("isq", "types"), [("q4_0", {"Q4_0", "Q5_0"}), ("8", {"Q8_0"}), ("int4", {"int4-32", "int8-32"})]
)
def test_quantized_in_place(folder: Path, tmp_path: Path, isq: str, types: set[str]) -> None:
    """Embedding and LM head get a step more."""
    assert compile_it("--isq", isq, "plain", "-m", folder, "-o", tmp_path / "out").exit_code == 0
    assert matrix_types(tmp_path / "out") == types


def test_types_by_pattern_and_block_size(folder: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("model.layers.1.* none\n*.down_proj* q8_0\n")
    options = ("--isq", "int8", "--block-size", "16", "--isq-map", rules)
    assert compile_it(*options, "plain", "-m", folder, "-o", tmp_path / "out").exit_code == 0
    kept = manifest(tmp_path / "out").tensors
    assert kept["model.layers.1.mlp.up_proj.weight"].type == "F32"
    assert kept["model.layers.0.mlp.down_proj.weight"].type == "Q8_0"
    assert kept["model.layers.0.mlp.up_proj.weight"].type == "int8-16"


def test_quantized_again_only_when_asked(tiny_llama, tmp_path: Path) -> None:
    names = ("token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    file = tiny_llama(tmp_path / "tiny.gguf", dict.fromkeys(names, "Q8_0")).write()
    where = ("gguf", "-m", tmp_path, "-f", file.name, "-o", tmp_path / "out")
    refused = compile_it("--isq", "q4_0", *where)
    assert (refused.exit_code, "quantized already" in refused.output) == (4, True)
    assert compile_it("--isq", "q4_0", "--requantize", *where).exit_code == 0
    assert matrix_types(tmp_path / "out") == {"Q4_0", "Q5_0"}


def test_a_dry_run_shows_what_fits_and_writes_nothing(gguf: Path) -> None:
    result = compile_it("gguf", "-m", gguf.parent, "-f", gguf.name, "--dry-run")
    assert result.exit_code == 0
    assert "model.layers.*.mlp.up_proj.weight" in result.output
    assert "sequences that fit in float32" in result.output
    assert [path.name for path in gguf.parent.iterdir()] == ["tiny.gguf"]


def test_a_dry_run_for_programs(gguf: Path) -> None:
    options = ("--isq", "q8_0", "gguf", "-m", gguf.parent, "-f", gguf.name, "--dry-run", "--json")
    values = json.loads(compile_it(*options).output)
    assert {each["type_out"] for each in values["tensors"]} == {"F32", "Q8_0"}
    assert values["kv_float32"] == 2 * values["kv_float16"] == 2 * 2 * 2 * 16 * 4  # layers, both, heads, size, bytes


def test_template_architecture_and_pre_tokenizer_before_the_checkpoints_own(gguf: Path, tmp_path: Path) -> None:
    options = ("-c", "chatml", "gguf", "-m", gguf.parent, "-f", gguf.name, "-a", "mistral", "--pre", "gpt-2")
    assert compile_it(*options, "-o", tmp_path / "out").exit_code == 0
    assert "<|im_start|>" in (tmp_path / "out" / "chat_template.jinja").read_text()
    assert manifest(tmp_path / "out").architecture == "mistral"
    plain = (tmp_path / "out" / "tokenizer.json").read_text()
    assert compile_it("gguf", "-m", gguf.parent, "-f", gguf.name, "-o", tmp_path / "own").exit_code == 0
    assert plain != (tmp_path / "own" / "tokenizer.json").read_text()


def test_the_list_of_tensors_for_the_curious(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MISTRALRS_DEBUG", "1")
    assert compile_it("gguf", "-m", gguf.parent, "-f", gguf.name, "--dry-run").exit_code == 0
    lines = json.loads((tmp_path / "mistralrs_gguf_tensors.txt").read_text())
    assert "name = `blk.0.attn_k.weight`, shape = [32, 64], dtype = F32" in lines


@pytest.fixture
def adapters(folder: Path, tmp_path: Path) -> Path:
    """Two of them, and an ordering file that says so."""
    for seed, name in enumerate(("one", "two")):
        write_adapter(tmp_path / "adapters" / name, linears(read_golden()["llama"].model.shapes), seed=seed)
    ordering = {"order": ["one", "two"], "base_model_id": str(folder)}
    (tmp_path / "ordering.json").write_text(json.dumps(ordering))
    return tmp_path / "adapters"


def weights(package: Path) -> bytes:
    return (package / "model.onnx.data").read_bytes()


def test_adapters_are_merged(folder: Path, adapters: Path, tmp_path: Path) -> None:
    base = ("plain", "-m", folder, "-o", tmp_path / "base")
    one = ("lora", "-m", folder, "-a", adapters / "one", "-o", tmp_path / "one")
    both = ("lora", "-a", adapters, "--order", tmp_path / "ordering.json", "-o", tmp_path / "both")
    assert [compile_it(*each).exit_code for each in (base, one, both)] == [0, 0, 0]
    assert len({weights(tmp_path / name) for name in ("base", "one", "both")}) == 3
    assert matrix_types(tmp_path / "both") == {"F32"}


def test_adapters_are_merged_into_quantized_weights(tiny_llama, tmp_path: Path) -> None:
    tiny = tiny_llama(tmp_path / "tiny.gguf", {"ffn_up": "Q4_0"})
    write_adapter(tmp_path / "adapter", {"model.layers.0.mlp.up_proj": (tiny.wide, tiny.hidden)})
    where = ("lora-gguf", "-m", tmp_path, "-f", tiny.write().name, "-a", tmp_path / "adapter")
    assert compile_it(*where, "-o", tmp_path / "same").exit_code == 0
    assert compile_it(*where, "--merge-dtype", "f16", "-o", tmp_path / "dense").exit_code == 0
    for package, types in (("same", ["Q4_0", "Q4_0"]), ("dense", ["F16", "Q4_0"])):
        kept = manifest(tmp_path / package).tensors
        assert [kept[f"model.layers.{i}.mlp.up_proj.weight"].type for i in (0, 1)] == types


def test_adapters_to_preload_are_carried_by_the_package(folder: Path, adapters: Path, tmp_path: Path) -> None:
    preload = [{"name": "two", "adapter_model_id": str(adapters)}]
    ordering = {"order": ["one"], "base_model_id": str(folder), "preload_adapters": preload}
    (tmp_path / "ordering.json").write_text(json.dumps(ordering))
    assert compile_it("plain", "-m", folder, "-o", tmp_path / "base").exit_code == 0
    result = compile_it("lora", "-a", adapters, "--order", tmp_path / "ordering.json", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert weights(tmp_path / "out") == weights(tmp_path / "base")
    made = manifest(tmp_path / "out")
    assert (sorted(made.adapters), made.active_adapters) == (["one", "two"], ("one",))


def test_a_dry_run_of_merged_adapters(folder: Path, adapters: Path) -> None:
    result = compile_it("lora", "-m", folder, "-a", adapters / "one", "--merge-dtype", "f16", "--dry-run", "--json")
    assert {each["type_out"] for each in json.loads(result.output)["tensors"]} == {"F32", "F16"}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["gguf", "-m", ".", "-f", "nothing.gguf", "-o", "out"], 4, "error: nothing.gguf: no such file"),
        (["plain", "-m", "/no/where", "-o", "out"], 4, "error: there is no file or folder /no/where"),
        (["--isq", "q9", "plain", "-m", ".", "-o", "out"], 4, "q9"),
        (["--isq", "q4k", "--block-size", "32", "plain", "-m", ".", "-o", "out"], 4, "leave it out"),
        (["--block-size", "32", "plain", "-m", ".", "-o", "out"], 2, "there is no --isq"),
        (["--token-source", "purse", "plain", "-m", ".", "-o", "out"], 4, "literal:VALUE"),
        (["-c", "chatmll", "plain", "-m", ".", "-o", "out"], 4, "the nearest is chatml"),
        (["plain", "-m", "."], 2, "--out"),
        (["plain", "-m", ".", "-d", "f8", "-o", "out"], 2, "bf16"),
        (["ggml", "-m", ".", "-f", "x.bin", "-g", "0", "-o", "out"], 2, "x>=1"),
        (["lora", "-m", ".", "-o", "out"], 2, "--adapters-model-id"),
        (["lora", "-a", ".", "-o", "out"], 4, "which model? Name it with -m, or an ordering file"),
        (["lora", "-m", ".", "-a", "/no/where", "-o", "out"], 4, "error: there is no file or folder /no/where"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: list[str], code: int, text: str) -> None:
    result = compile_it(*arguments)
    assert (result.exit_code, text in result.output) == (code, True), result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("page", [[], ["demo"], *([name] for name in COMMANDS)])
def test_help_fits_on_a_screen(page: list[str]) -> None:
    assert len(CliRunner().invoke(main, [*page, "--help"], terminal_width=100).output.splitlines()) <= 40
