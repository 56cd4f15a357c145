"""What guessing tokens gains and costs: code to copy, and text that cannot be predicted, with and without drafts.

`python -m mistralrs_onnx.tools.benching.speculation_bench --help`. All ways take turns, at concurrency 1.
"""

from __future__ import annotations

import inspect
import random
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import click

from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.speculate import SpeculateOptions
from mistralrs_onnx.tools.cli.failures import reported
from mistralrs_onnx.tools.tables import markdown

GREEDY = SamplingParams(temperature=0, max_tokens=160, ignore_eos=True)
WILD = SamplingParams(temperature=1.5, seed=0, max_tokens=160, ignore_eos=True)


class Task(NamedTuple):
    """A prompt, how it is answered, and what it stands for."""

    name: str
    prompt: list[int]
    params: SamplingParams


class Seen(NamedTuple):
    """Tokens of a second while the answer came, and guesses that were right of all."""

    rate: float
    token_ids: tuple[int, ...]
    accepted: float


def tasks(model: Model) -> list[Task]:
    code = inspect.getsource(random.Random.sample).split('"""')[0] + inspect.getsource(random.Random.choices)
    question = f"Rewrite this code, with `k` renamed to `count`. Answer with the code only.\n\n{code}"
    return [
        Task("code to rewrite", _ask(model, question, code), GREEDY),
        Task("sampled at temperature 1.5", _ask(model, "Invent twenty words.", "Words:"), WILD),
    ]


def _ask(model: Model, question: str, text: str) -> list[int]:
    try:
        return model.encode_chat([{"role": "user", "content": question}])
    except RequestError:  # no chat template: the text twice is a copy as well
        return model.encode(text + "\n\n" + text[: len(text) // 8])


def answer(model: Model, task: Task) -> Seen:
    before, begun = model.engine.stats(), 0.0
    token_ids: list[int] = []
    for output in model.engine.generate(task.prompt, task.params):
        begun = begun or perf_counter()
        token_ids += output.token_ids
    seconds, after = perf_counter() - begun, model.engine.stats()
    guessed = after.draft_tokens - before.draft_tokens
    accepted = (after.accepted_tokens - before.accepted_tokens) / guessed if guessed else 0.0
    return Seen((len(token_ids) - 1) / seconds, tuple(token_ids), accepted)


@click.command()
@click.argument("package", type=click.Path(path_type=Path, exists=True))
@click.option("--draft", type=click.Path(path_type=Path, exists=True), help="Package of a smaller model.")
@click.option("--gamma", default=16, show_default=True, help="The most guesses of a step.")
@click.option("-r", "--repeats", default=3, show_default=True)
@click.option("--threads", default=None, type=int, help="Processors to use.  [default: all]")
def main(*, package: Path, draft: Path | None, gamma: int, repeats: int, threads: int | None) -> None:
    """Times PACKAGE plain, with prompt lookup, and with a draft model."""
    limits = EngineOptions(max_seqs=1, max_model_len=2048, prefix_cache=False)
    options = LoadOptions(engine=limits, num_threads=threads)
    ways: dict[str, SpeculateOptions | None] = {"plain": None, "lookup": SpeculateOptions("lookup", gamma)}
    if draft is not None:
        ways["draft model"] = SpeculateOptions(draft, gamma)
    with reported(), ExitStack() as stack:
        models = {
            name: stack.enter_context(load(package, replace(options, speculate=way))) for name, way in ways.items()
        }
        lines = []
        for task in tasks(models["plain"]):
            seen: dict[str, list[Seen]] = {name: [] for name in models}
            for _ in range(repeats):
                for name, model in models.items():
                    seen[name].append(answer(model, task))
            lines += _lines(task, seen)
    click.echo(markdown(lines, ["task", "way", "tokens/s", "of plain", "accepted", "same tokens"], 2), nl=False)


def _lines(task: Task, seen: dict[str, list[Seen]]) -> list[list[str]]:
    plain, expected = median(each.rate for each in seen["plain"]), seen["plain"][0].token_ids
    return [
        [
            task.name,
            name,
            f"{median(each.rate for each in found):.1f}",
            f"{median(each.rate for each in found) / plain:.2f}",
            f"{median(each.accepted for each in found):.0%}",
            "yes" if all(each.token_ids == expected for each in found) else "no",
        ]
        for name, found in seen.items()
    ]


if __name__ == "__main__":
    main()
