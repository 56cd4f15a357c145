"""`mistralrs-bench`: tokens per second of a model, as a table for people, pages or programs."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mistralrs_onnx.model import LoadOptions, Model
from mistralrs_onnx.runtime.sessions import num_processors

from .checkpoints import Commands, checkpoint_options
from .failures import reported
from .measuring import Prompts, Result, Turns, Workload, repeat
from .options import Locate, add_models, chosen, load_found, run_options
from .speculate_options import speculate_note

EXAMPLES = """
\b
Examples:
  mistralrs-bench demo
  mistralrs-bench -p 0 -g 64 -d 100,500 -c 1,16 --determinism fast demo
  mistralrs-bench -r 3 -o json gguf -m ~/models -f model.Q4_1.gguf
\b
pp reads a prompt, tg generates; "@ d500" has 500 tokens before it, which the clock does not see. t/s and ms/t are
of one request, throughput is of all. The rate of tg counts from the moment that every request has its first token.
Prompts are random, other ones each time, and sampling is greedy. Requests have the adapters that are loaded in turn;
those that an ordering file makes active they have all together.
"""
BACKEND = "CPU"
COLUMNS = ("model", "backend", "test", "concurrency", "t/s", "ms/t", "throughput/s", "TTFT ms")


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between: 1,4,16."""

    name = "numbers"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(word.strip().isdecimal() and int(word) >= self._least for word in words):
            self.fail(f"{value!r} must be numbers of at least {self._least} with commas between, like 1,4,16")
        return tuple(dict.fromkeys(int(word) for word in words))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for, but for the model. `form`: None for what suits standard output."""

    workloads: tuple[Workload, ...]
    repetitions: int
    form: str | None
    loading: LoadOptions


@click.group(
    cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(package_name="mistralrs-onnx")
@click.option("-p", "--n-prompt", type=click.IntRange(0), default=512, show_default=True, help="Tokens to read.")
@click.option("-g", "--n-gen", type=click.IntRange(0), default=128, show_default=True, help="Tokens to generate.")
@click.option(
    "-c",
    "--concurrency",
    type=Numbers(1),
    default="1,4,16",
    show_default=True,
    help="Requests that generate at once. A prompt is read alone.",
)
@click.option("-d", "--depth", type=Numbers(0), default="0", show_default=True, help="Tokens that lie before.")
@click.option("-r", "--repetitions", type=click.IntRange(1), default=5, show_default=True, help="Runs of each test.")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["md", "csv", "json"]),
    help="Form of the result.  [default: a table on a terminal, md elsewhere]",
)
@run_options
@checkpoint_options(chat_template=False)
@click.pass_context
def main(
    ctx: click.Context,
    n_prompt: int,
    n_gen: int,
    concurrency: tuple[int, ...],
    depth: tuple[int, ...],
    repetitions: int,
    form: str | None,
) -> None:
    """Measure how fast a model reads and generates."""
    workloads = tuple(plan(n_prompt, n_gen, concurrency, depth))
    if not workloads:
        raise click.UsageError("nothing to measure: -p and -g are both 0")
    loading = chosen(ctx)
    check_fits(workloads, loading)
    ctx.obj = Wanted(workloads, repetitions, form, loading)


def plan(n_prompt: int, n_gen: int, concurrency: Sequence[int], depth: Sequence[int]) -> Iterator[Workload]:
    for d in depth:
        if n_prompt:
            yield Workload("pp", n_prompt, d)
        if n_gen:
            yield from (Workload("tg", n_gen, d, c) for c in concurrency)


def check_fits(workloads: Sequence[Workload], loading: LoadOptions) -> None:
    """Raises UsageError for options under which another thing would be measured."""
    most, engine = max(workload.concurrency for workload in workloads), loading.engine
    if most > engine.max_seqs:
        raise click.UsageError(f"-c {most} is more than {engine.max_seqs} requests at once: add --max-seqs {most}")
    if not engine.prefix_cache and any(workload.depth for workload in workloads):
        raise click.UsageError("-d needs the prefix cache: leave out --no-prefix-cache")


def run(wanted: Wanted, locate: Locate) -> None:
    with reported(), load_found(locate, wanted.loading) as model:
        prompts, adapters = Prompts(model.manifest.vocab_size), turns(model)
        notes = [*adapter_note(adapters, len(model.mixed_adapters)), speculate_note(wanted.loading.speculate)]
        name = ", ".join([model.name, *filter(None, notes)])
        results = []
        for workload in wanted.workloads:
            click.echo(f"Measuring {workload.name}, {workload.concurrency} at once ...", err=True)
            results.append(repeat(model.engine, workload, prompts, wanted.repetitions, adapters))
    show(results, name, wanted)


def turns(model: Model) -> Turns:
    """What requests run with: the active adapters, else each of those that are loaded."""
    if model.adapters is None:
        return (None,)
    active = model.adapters.select(None)
    return (active,) if active is not None else tuple(model.adapters.loaded()) or (None,)


def adapter_note(adapters: Turns, num_mixed: int) -> Iterator[str]:
    if num_mixed:
        yield f"X-LoRA of {num_mixed}"
    names = [adapter.name for adapter in adapters if adapter is not None]
    if names:
        yield f"adapter {names[0]}" if len(names) == 1 else f"{len(names)} adapters"


add_models(main, run)


def show(results: Sequence[Result], model: str, wanted: Wanted) -> None:
    forms: dict[str, Callable[[], str]] = {
        "md": lambda: markdown(rows(results, model)),
        "csv": lambda: as_csv(records(results, model, wanted.loading)),
        "json": lambda: json.dumps(records(results, model, wanted.loading), indent=2) + "\n",
    }
    if wanted.form is None and sys.stdout.isatty():
        Console().print(terminal_table(rows(results, model)))
    else:
        click.echo(forms[wanted.form or "md"](), nl=False)


def records(results: Sequence[Result], model: str, loading: LoadOptions) -> list[dict[str, Any]]:
    """Everything a program may want to know of each test."""
    return [
        {
            "model": model,
            "backend": BACKEND,
            "threads": loading.num_threads or num_processors(),
            "kv_dtype": loading.kv_dtype,
            "determinism": loading.determinism,
            "test": result.workload.name,
            "depth": result.workload.depth,
            "concurrency": result.workload.concurrency,
            "repetitions": len(result.timings),
            "num_tokens": sum(timing.num_tokens for timing in result.timings),
            "tokens_per_second": result.rate,
            "tokens_per_second_stdev": result.rate_stdev,
            "ms_per_token": result.ms_per_token,
            "throughput": result.throughput,
            "ttft_ms": result.ttft_ms,
        }
        for result in results
    ]


def rows(results: Sequence[Result], model: str) -> list[tuple[str, ...]]:
    """The cells of a table, in the order of COLUMNS."""
    return [
        (
            model,
            BACKEND,
            result.workload.name,
            str(result.workload.concurrency),
            f"{result.rate:.2f} ± {result.rate_stdev:.2f}",
            f"{result.ms_per_token:.3f}",
            f"{result.throughput:.2f}",
            f"{result.ttft_ms:.2f}",
        )
        for result in results
    ]


def markdown(cells: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS, num_texts: int = 3) -> str:
    """A table whose first `num_texts` columns are text, the others numbers."""
    marks = ["---" if i < num_texts else "--:" for i in range(len(columns))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (columns, marks, *cells))


def terminal_table(cells: Sequence[Sequence[str]]) -> Table:
    """Model and backend, the same in each row, stand above it: 80 columns are enough."""
    model, backend = cells[0][:2]
    table = Table(title=f"{model}, {backend}", box=SIMPLE)
    for i, column in enumerate(COLUMNS[2:]):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for line in cells:
        table.add_row(*line[2:])
    return table


def as_csv(cells: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, cells[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    return text.getvalue()
