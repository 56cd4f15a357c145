"""What commands that run a model have in common."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from mistralrs_onnx.model import LoadOptions
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.tools.options import Size, chosen, run_options


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


def test_every_option_reaches_the_engine_or_the_loader() -> None:
    engine = EngineOptions(
        max_seqs=3, max_queue=4, max_model_len=500, prefill_chunk=6, kv_mem=7 * 1024**2, prefix_cache=False
    )
    options = "--max-seqs 3 --max-queue 4 --max-model-len 500 --prefill-chunk 6 --kv-mem 7MiB --no-prefix-cache"
    loading = "--kv-dtype float16 --determinism fast --threads 2 --verify"
    assert gathered(*options.split(), *loading.split()) == repr(LoadOptions(engine, "float16", "fast", 2, verify=True))


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
