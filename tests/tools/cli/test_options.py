"""What commands that run a model have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mistralrs_onnx.adapters import AdapterOptions
from mistralrs_onnx.compiler.adapters.files import AdapterFiles
from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.model import LoadOptions
from mistralrs_onnx.runtime.adapter_registry import AdapterCaps
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.sources.adapter_source import LocatedAdapters
from mistralrs_onnx.sources.source import ModelSource
from mistralrs_onnx.speculate import LARGEST_DRAFT, SpeculateOptions
from mistralrs_onnx.tools.cli.adapter_options import Found, adapted
from mistralrs_onnx.tools.cli.options import CompiledNow, chosen, run_options
from mistralrs_onnx.tools.cli.params import Size
from mistralrs_onnx.tools.cli.progress import StoppedError
from mistralrs_onnx.tools.cli.speculate_options import speculate_note
from mistralrs_onnx.which import Chosen


@click.command()
@run_options
@click.pass_context
def command(ctx: click.Context) -> None:
    click.echo(repr(chosen(ctx)))


def gathered(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_without_options_everything_has_its_default() -> None:
    assert gathered() == repr(LoadOptions())


def test_what_help_calls_a_default_is_one() -> None:
    page = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    caps = AdapterCaps()
    for default in (caps.count, caps.rank, f"{caps.num_bytes >> 30}GiB", SpeculateOptions("lookup").gamma):
        assert f"[default: {default}]" in page
    assert f"up to {LARGEST_DRAFT}." in page


def test_every_option_reaches_the_engine_or_the_loader() -> None:
    engine = EngineOptions(
        max_seqs=3,
        max_queue=4,
        max_model_len=500,
        prefill_chunk=6,
        kv_mem=7 * 1024**2,
        prefix_cache=False,
        prefix_cache_n=8,
        kv_cache=False,
    )
    options = "--max-seqs 3 --max-queue 4 --max-model-len 500 --prefill-chunk 6 --kv-mem 7MiB --prefix-cache-n 8"
    options += " --no-prefix-cache --no-kv-cache"
    loading = "--kv-dtype float16 --determinism fast --threads 2 --verify"
    assert gathered(*options.split(), *loading.split()) == repr(LoadOptions(engine, "float16", "fast", 2, verify=True))


def test_every_option_about_guesses_is_read(tmp_path: Path) -> None:
    assert gathered("--prompt-lookup") == repr(LoadOptions(speculate=SpeculateOptions("lookup")))
    assert gathered("--prompt-lookup", "--gamma", "3") == repr(LoadOptions(speculate=SpeculateOptions("lookup", 3)))
    draft = LoadOptions(speculate=SpeculateOptions(tmp_path, 5, adaptive=False))
    assert gathered("--draft", str(tmp_path), "--gamma", "5", "--fixed-gamma") == repr(draft)


def test_who_guesses_in_a_few_words() -> None:
    assert speculate_note(None) == ""
    assert speculate_note(SpeculateOptions("lookup")) == "prompt lookup"
    assert speculate_note(SpeculateOptions(Path("packages/small"))) == "draft small"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--gamma 3", "add --prompt-lookup or --draft"),
        ("--fixed-gamma", "add --prompt-lookup or --draft"),
        ("--prompt-lookup --draft .", "leave one of them out"),
        ("--prompt-lookup --gamma 0", "1<=x<=64"),
        ("--draft /no/where", "does not exist"),
    ],
)
def test_mistakes_about_guesses(options: str, complaint: str) -> None:
    result = CliRunner().invoke(command, options.split())
    assert (result.exit_code, complaint in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("4 GiB", 4 << 30), ("500MB", 500_000_000), ("1.5k", 1500), ("1048576", 1 << 20), ("1B", 1)],
)
def test_sizes(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "4 apples", "4Gib/s"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="4GiB"):
        Size().convert(text, None, None)


@pytest.mark.parametrize("options", [("--max-seqs", "0"), ("--kv-dtype", "int8"), ("--threads", "two")])
def test_wrong_usage(options: Any) -> None:
    assert CliRunner().invoke(command, options).exit_code == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sql").mkdir()
    return tmp_path


def test_every_option_about_adapters_is_read(folder: Path) -> None:
    options = f"--lora-modules a={folder} --lora-modules b={folder}/sql --adapter-root {folder}"
    caps = "--max-loras 3 --max-lora-rank 8 --adapter-mem 5MiB"
    expected = AdapterOptions({"a": folder, "b": folder / "sql"}, root=folder, caps=AdapterCaps(3, 8, 5 << 20))
    assert gathered(*options.split(), *caps.split()) == repr(LoadOptions(adapters=expected))


@pytest.mark.parametrize("option", ["--lora-modules a={}", "--adapter-root {}"])
def test_either_option_turns_adapters_on(folder: Path, option: str) -> None:
    assert "adapters=AdapterOptions(" in gathered(*option.format(folder).split())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--lora-modules a", "must be a name and a folder, like sql=adapters/sql"),
        ("--lora-modules a=", "must be a name and a folder"),
        ("--lora-modules ={}", "must be a name and a folder"),
        ("--lora-modules a=/no/where", "/no/where: no such folder"),
        ("--lora-modules a={0} --lora-modules a={0}", "has a name twice"),
        ("--adapter-root /no/where", "does not exist"),
        ("--max-loras 0", "x>=1"),
        ("--adapter-mem much", "is not a size"),
    ],
)
def test_mistakes_about_adapters(folder: Path, options: str, complaint: str) -> None:
    result = CliRunner().invoke(command, options.format(folder).split())
    assert (result.exit_code, complaint in result.output) == (2, True), result.output


def test_adapters_that_come_with_a_model_are_loaded_with_the_others(folder: Path) -> None:
    mine, theirs = folder / "sql", AdapterFiles("poem", folder / "config", folder / "weights")
    found = Found(folder, LocatedAdapters(loaded={"poem": theirs}, active=("poem",)))
    said = LoadOptions(adapters=AdapterOptions({"sql": mine}, caps=AdapterCaps(count=2)))
    both = AdapterOptions({"poem": theirs, "sql": mine}, active=("poem",), caps=AdapterCaps(count=2))
    assert adapted(said, found).adapters == both
    assert adapted(LoadOptions(), found).adapters == AdapterOptions({"poem": theirs}, active=("poem",))
    with pytest.raises(CompileError, match="has an adapter poem, and the ordering file another"):
        adapted(LoadOptions(adapters=AdapterOptions({"poem": mine})), found)


def test_what_a_subcommand_says_of_running(folder: Path) -> None:
    """Guesses that a file asks for come after those of the command line."""
    theirs, mine = SpeculateOptions(folder), SpeculateOptions("lookup")
    found = Found(folder, tgt_non_granular_index=3, repeat_last_n=5, speculate=theirs)
    loading = adapted(LoadOptions(), found)
    assert (loading.tgt_non_granular_index, loading.repeat_last_n, loading.speculate) == (3, 5, theirs)
    assert adapted(LoadOptions(speculate=mine), found).speculate == mine


def test_caps_of_nothing_are_a_mistake(folder: Path, tiny_llama: Any) -> None:
    capped = LoadOptions(adapters=AdapterOptions(caps=AdapterCaps(count=2)))
    with pytest.raises(CompileError, match="add --lora-modules or --adapter-root"):
        adapted(capped, Found(compile_gguf(tiny_llama(folder / "tiny.gguf").write(), folder / "package")))
    assert adapted(LoadOptions(), Found(folder)) == LoadOptions()


def test_a_compile_that_nobody_waits_for_leaves_nothing(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("MISTRALRS_CACHE", str(cache))
    tiny_llama(tmp_path / "tiny.gguf").write()
    wanted = Chosen(ModelSource("gguf", str(tmp_path), "tiny.gguf"), CompileOptions())
    with pytest.raises(StoppedError):
        CompiledNow(wanted, is_stopped=lambda: True)()
    assert not [path for path in cache.rglob("*") if "tiny" in path.name]
