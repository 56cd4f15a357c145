"""Compile progress for people: a bar on a terminal, a line per stage otherwise, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from mistralrs_onnx.compiler.progress import Progress as Stage
from mistralrs_onnx.compiler.progress import Report, quiet

STAGES = {
    "download": "Downloading",
    "read": "Reading the checkpoint",
    "tokenizer": "Rebuilding the tokenizer",
    "draw": "Drawing graphs",
    "write": "Writing weights",
    "hash": "Hashing files",
}


@contextmanager
def compile_progress(*, silent: bool) -> Iterator[Report]:
    """A report function for the block. It writes to standard error."""
    if silent:
        yield quiet
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task("Compiling", total=None)
            yield lambda stage: bar.update(
                task, description=STAGES[stage.stage], completed=stage.done, total=stage.total or None
            )
    else:
        yield _Lines()


def _bar() -> Progress:
    from rich.console import Console

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


class _Lines:
    """A line when a stage begins."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, stage: Stage) -> None:
        if stage.stage != self._last:
            self._last = stage.stage
            click.echo(f"{STAGES[stage.stage]} ...", err=True)
