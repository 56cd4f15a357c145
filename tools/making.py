"""Makes a package, or shows what it would be; slow to import, so help does without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.dry_run import dry_run
from mistralrs_onnx.compiler.estimate import Estimate, render, to_json
from mistralrs_onnx.graphs.contract import ADAPTERS, PORTABLE_GRAPH
from mistralrs_onnx.memory import available_memory
from mistralrs_onnx.sources.source import Located, ModelSource

from .cli.failures import NO_ROOM
from .cli.progress import compile_progress


@dataclass(frozen=True, slots=True)
class Output:
    """What is to be done with the checkpoint. `out`: None when nothing is to be written."""

    out: Path | None
    force: bool
    accuracy: str
    expand: bool
    dry_run: bool
    json: bool
    quiet: bool
    emit_onnx_adapter: bool = False


def make(source: ModelSource, options: CompileOptions, output: Output) -> None:
    """Raises CompileError."""
    with compile_progress(silent=output.quiet or output.json) as report:
        located = source.locate(options, report).with_packaged()
        if output.out is not None and not output.dry_run:
            _compile(located, output.out, output, report)
    if output.dry_run:
        _show(located, output)


def _compile(located: Located, out: Path, output: Output, report: Any) -> None:
    start = perf_counter()
    located.compile(out, force=output.force, report=report)
    if not output.quiet:
        size = sum(path.stat().st_size for path in out.rglob("*"))
        click.echo(f"Compiled {located.path.name} to {out} ({size / 1e6:.1f} MB) in {perf_counter() - start:.1f} s.")
        click.echo(f"Serve it with: mistralrs-server compiled -m {out}")
        if located.options.emitted is not None:
            _say_how_to_apply(out / ADAPTERS / f"{located.options.emitted.adapters[0].name}.onnx_adapter")


def _say_how_to_apply(adapter: Path) -> None:
    click.echo(f"A program that runs {adapter.parents[1] / PORTABLE_GRAPH} with onnxruntime applies an adapter so:")
    click.echo(f'  adapter = onnxruntime.LoraAdapter(); adapter.Load("{adapter}")')
    click.echo("  options = onnxruntime.RunOptions(); options.add_active_adapter(adapter)")


def _show(located: Located, output: Output) -> None:
    """Exit code 3 when there is no memory to serve even the shortest context."""
    with located.open() as checkpoint:
        found: Estimate = dry_run(checkpoint, located.options, available_memory())
    click.echo((to_json if output.json else render)(found), nl=False)
    if not any(fit.float16 for fit in found.fits):
        click.echo("error: not even one sequence fits into the memory of this machine", err=True)
        raise SystemExit(NO_ROOM)
