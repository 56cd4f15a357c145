"""Compile progress for people: a bar on a terminal, a line per stage otherwise, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import click
from rich.progress import BarColumn, DownloadColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

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


class StoppedError(Exception):
    """Nobody waits any longer for what is being done."""


def stopping(report: Report, is_stopped: Callable[[], bool]) -> Report:
    """Raises StoppedError instead of reporting."""

    def reported(stage: Stage) -> None:
        if is_stopped():
            raise StoppedError
        report(stage)

    return reported


@contextmanager
def compile_progress(*, silent: bool) -> Iterator[Report]:
    """A report function for the block. It writes to standard error."""
    if silent:
        yield quiet
    elif sys.stderr.isatty():
        with ExitStack() as shown:
            yield _Bar(shown)
    else:
        yield _Lines()


class _Bar:
    """Appears when the first stage begins: not at all where a package is there already."""

    def __init__(self, shown: ExitStack) -> None:
        self._shown = shown
        self._bar: Progress | None = None
        self._stage = ""

    def __call__(self, stage: Stage) -> None:
        if self._bar is None:
            self._bar = self._shown.enter_context(_bar())
        if stage.stage != self._stage:
            self._stage = stage.stage
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(STAGES[stage.stage], total=None)
        [task] = self._bar.task_ids
        self._bar.update(task, completed=stage.done, total=stage.total or None)


class _Bytes(DownloadColumn):
    """Where somebody counts them."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


def _bar() -> Progress:
    from rich.console import Console

    columns = TextColumn("{task.description}"), BarColumn(), _Bytes(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


class _Lines:
    """A line when a stage begins."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, stage: Stage) -> None:
        if stage.stage != self._last:
            self._last = stage.stage
            click.echo(f"{STAGES[stage.stage]} ...", err=True)
