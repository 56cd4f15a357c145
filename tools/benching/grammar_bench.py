"""What grammars cost: requests at once without one, with an expression, and with a schema, in tokens and masks.

`python -m mistralrs_onnx.tools.benching.grammar_bench PACKAGE`. All ways take turns in one run.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import click

from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.engine import EngineOptions, Output
from mistralrs_onnx.runtime.grammar.compiler import Grammar
from mistralrs_onnx.runtime.grammar.spec import make_spec
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.tools.cli.failures import reported
from mistralrs_onnx.tools.tables import markdown

LIST = {
    "type": "array",
    "minItems": 100,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "size": {"type": "number"}, "tags": {"type": "array"}},
        "required": ["name", "size"],
        "additionalProperties": False,
    },
}
WAYS: Mapping[str, tuple[str, Any] | None] = {
    "none": None,
    "expression": ("regex", r"([A-Za-z]+[ ,.\n]+){2000}"),
    "schema": ("json_schema", LIST),
}


class Seen(NamedTuple):
    """Of a run: tokens of a second, milliseconds of a step, and of these outside the graph."""

    rate: float
    step_ms: float
    outside_ms: float


def measure(model: Model, grammar: Grammar | None, concurrency: int, num_tokens: int) -> Seen:
    """Rates count from the moment that every request has its first token."""
    params = [SamplingParams(temperature=1.0, seed=i, max_tokens=num_tokens) for i in range(concurrency)]
    boxes: list[queue.SimpleQueue[Output]] = [queue.SimpleQueue() for _ in params]
    prompt = model.encode("A list of animals:")
    for each, box in zip(params, boxes, strict=True):
        model.engine.submit(prompt, each, box.put, grammar=grammar)
    for box in boxes:
        box.get()
    begun, before = perf_counter(), model.engine.stats()
    total = sum(_drain(box) for box in boxes)
    seconds, after = perf_counter() - begun, model.engine.stats()
    steps = max(1, after.steps - before.steps)
    outside = after.other_seconds - before.other_seconds
    return Seen(total / seconds, 1000 * seconds / steps, 1000 * outside / steps)


def _drain(box: queue.SimpleQueue[Output]) -> int:
    num_tokens = 0
    while True:
        output = box.get()
        num_tokens += len(output.token_ids)
        if output.finish_reason is not None:
            return num_tokens


@click.command()
@click.argument("package", type=click.Path(path_type=Path, exists=True))
@click.option("-c", "--concurrency", default=(1, 16), multiple=True, show_default=True)
@click.option("-n", "--tokens", default=100, show_default=True, help="Of each answer.")
@click.option("-r", "--repeats", default=5, show_default=True)
def main(package: Path, concurrency: Sequence[int], tokens: int, repeats: int) -> None:
    """Times PACKAGE with and without grammars."""
    limits = EngineOptions(max_seqs=max(concurrency), max_model_len=2048, prefix_cache=False)
    with reported(), load(package, LoadOptions(engine=limits)) as model:
        grammars = {name: None if way is None else model.grammar(make_spec(*way)) for name, way in WAYS.items()}
        lines: list[list[str]] = []
        for count in concurrency:
            seen: dict[str, list[Seen]] = {name: [] for name in grammars}
            for _ in range(repeats + 1):
                for name, grammar in grammars.items():
                    seen[name].append(measure(model, grammar, count, tokens))
            lines += _lines(count, {name: found[1:] for name, found in seen.items()})
    columns = ["grammar", "at once", "tokens/s", "of none", "ms a step", "of them outside the graph"]
    click.echo(markdown(lines, columns, 1), nl=False)


def _lines(count: int, seen: Mapping[str, Sequence[Seen]]) -> list[list[str]]:
    plain = median(each.rate for each in seen["none"])
    return [
        [
            name,
            str(count),
            f"{median(each.rate for each in found):.1f}",
            f"{median(each.rate for each in found) / plain:.2f}",
            f"{median(each.step_ms for each in found):.1f}",
            f"{median(each.outside_ms for each in found):.2f}",
        ]
        for name, found in seen.items()
    ]


if __name__ == "__main__":
    main()
