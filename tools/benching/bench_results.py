"""Results of `mistralrs-bench` as rows for people and records for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from mistralrs_onnx.model import LoadOptions
from mistralrs_onnx.runtime.sessions import num_processors
from mistralrs_onnx.tools.tables import as_csv, markdown, terminal_table

from .contest import Standing
from .measuring import Result, Spread
from .peers import GENAI, LLAMA_CPP, MISTRALRS, PEERS

TITLES = ("model", "backend")
COLUMNS = (*TITLES, "test", "t/s", "ms/t", "concurrency", "throughput/s", "TTFT ms", "TPOT ms")
SHORT = {  # in two lines, for terminals
    "concurrency": "concur-\nrency",
    "throughput/s": "through-\nput/s",
    "TTFT ms": "TTFT\nms",
    "TPOT ms": "TPOT\nms",
    "ours, t/s": "ours\nt/s",
    f"{LLAMA_CPP}, t/s": "llama\n.cpp",
    f"{MISTRALRS}, t/s": "mistral\nrs",
    f"{GENAI}, t/s": GENAI,
    **{f"ours / {name}": "ratio" for name in PEERS},
}

Record = dict[str, Any]


class Sheet(NamedTuple):
    """A table and the same for programs. The first columns, `TITLES`, are the same in each row."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    records: list[Record]


def show(sheet: Sheet, form: str | None) -> None:
    """`form`: md, csv, json, or None for a table on a terminal and md elsewhere."""
    forms: dict[str, Callable[[], str]] = {
        "md": lambda: markdown(sheet.rows, sheet.columns, num_texts=len(TITLES) + 1),
        "csv": lambda: as_csv(sheet.records),
        "json": lambda: json.dumps(sheet.records, indent=2) + "\n",
    }
    if form is None and sys.stdout.isatty():
        Console().print(on_terminal(sheet))
    else:
        click.echo(forms[form or "md"](), nl=False)


def on_terminal(sheet: Sheet) -> Table:
    return terminal_table(sheet.rows, [SHORT.get(column, column) for column in sheet.columns], len(TITLES))


def alone(results: Sequence[Result], model: str, loading: LoadOptions) -> Sheet:
    return Sheet(COLUMNS, [row(r, model, loading) for r in results], [record(r, model, loading) for r in results])


def backend(loading: LoadOptions) -> str:
    """As others call it."""
    return loading.device.upper()


def row(result: Result, model: str, loading: LoadOptions) -> tuple[str, ...]:
    """In the order of COLUMNS."""
    return (
        model,
        backend(loading),
        result.workload.name,
        f"{result.rate:.2f} ± {result.rate_stdev:.2f}",
        f"{result.ms_per_token:.3f}",
        str(result.workload.concurrency),
        f"{result.throughput:.2f}",
        f"{result.ttfts.mean:.2f}",
        "-" if result.tpots is None else f"{result.tpots.mean:.2f}",
    )


def record(result: Result, model: str, loading: LoadOptions) -> Record:
    """Everything a program may want to know of a test. Of pp, nothing is known of TPOT."""
    return {
        "model": model,
        "backend": backend(loading),
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
        **_spread("ttft", result.ttfts),
        **_spread("tpot", result.tpots),
    }


def _spread(name: str, spread: Spread | None) -> dict[str, float | None]:
    mean, p50, p99 = spread or (None, None, None)
    return {f"{name}_ms": mean, f"{name}_p50_ms": p50, f"{name}_p99_ms": p99}


def compared(results: Sequence[Result], standings: Sequence[Standing], model: str, loading: LoadOptions) -> Sheet:
    """Medians of throughput of all, and how many times theirs ours is."""
    names = list(standings[0].theirs)
    columns = (
        *TITLES,
        "test",
        "concurrency",
        "ours, t/s",
        *(column for name in names for column in (f"{name}, t/s", f"ours / {name}")),
    )
    rows = [(model, backend(loading), *_standing_cells(standing)) for standing in standings]
    records = [
        record(result, model, loading) | _standing_record(standing)
        for result, standing in zip(results, standings, strict=True)
    ]
    return Sheet(columns, rows, records)


def _standing_cells(standing: Standing) -> list[str]:
    theirs = [cell for name, rate in standing.theirs.items() for cell in (_rate(rate), _ratio(standing.ratio(name)))]
    return [standing.workload.name, str(standing.workload.concurrency), _rate(standing.ours), *theirs]


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.{0 if value >= 1000 else 1}f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _standing_record(standing: Standing) -> Record:
    found: Record = {"throughput_median": standing.ours}
    for name, rate in standing.theirs.items():
        found |= {f"{name} throughput_median": rate, f"ours / {name}": standing.ratio(name)}
    return found
