"""What a step costs outside ONNX Runtime: packing, scheduling, sampling, detokenizing, telling.

`python -m mistralrs_onnx.tools.benching.overhead --help`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import click

from mistralrs_onnx.caching.cache import cached_package, demo_source
from mistralrs_onnx.model import LoadOptions, make_runner
from mistralrs_onnx.runners import chosen_kernels
from mistralrs_onnx.runtime.engine import Engine, EngineOptions
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.sessions import make_session, num_processors
from mistralrs_onnx.tools.cli.failures import reported
from mistralrs_onnx.tools.tables import markdown

from .measuring import Mark, Prompts, greedy, run

NUM_REQUESTS = 16


class Overhead(NamedTuple):
    """Means of a step in milliseconds: in all, inside ONNX Runtime, and in our runner around it."""

    step: float
    onnxruntime: float
    packing: float

    @property
    def share(self) -> float:
        """Of the step, outside ONNX Runtime."""
        return 1 - self.onnxruntime / self.step


class TimedSession:
    """A session that notes when it ran."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._runs: list[tuple[float, float]] = []

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        begun = perf_counter()
        self._session.run_with_iobinding(binding)
        self._runs.append((begun, perf_counter()))

    def between(self, begun: Mark, ended: Mark) -> list[float]:
        """Seconds of each run."""
        return [stop - start for start, stop in self._runs if begun.time < start and stop < ended.time]


@contextmanager
def timed_engine(package: Package, options: LoadOptions) -> Iterator[tuple[Engine, TimedSession]]:
    num_threads = options.num_threads or num_processors()
    kernels = chosen_kernels(package, options)
    session = TimedSession(make_session(package.engine(options.kv_dtype), num_threads, kernels=kernels))
    runner = make_runner(package, options, session)
    ends = frozenset(package.manifest.eos_token_ids)
    engine = Engine(
        runner, package.tokenizer(), ends, package.manifest.context_length, options.engine, num_threads=num_threads
    )
    engine.start()
    try:
        yield engine, session
    finally:
        engine.close()


def overhead(
    engine: Engine, session: TimedSession, prompts: Prompts, params: SamplingParams, *, num_requests: int, depth: int
) -> Overhead:
    """Of the steps in which all requests decode. The marks lie at one place of a step, so they bound whole steps."""
    batch = run(engine, [prompts.draw(depth) for _ in range(num_requests)], params, prompts)
    inside = session.between(batch.begun, batch.ended)
    in_runner = batch.ended.run_seconds - batch.begun.run_seconds
    step = batch.ended.time - batch.begun.time
    means = (1000 * seconds / len(inside) for seconds in (step, sum(inside), in_runner - sum(inside)))
    return Overhead(*means)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("-m", "--model", "folder", type=click.Path(path_type=Path), help="Package.  [default: the demo's]")
@click.option("-g", "--n-gen", type=click.IntRange(1), default=64, help="Tokens that each of 16 requests generates.")
@click.option("-d", "--depth", type=click.IntRange(1), default=100, help="Tokens that lie before.")
@click.option("-r", "--repetitions", type=click.IntRange(1), default=3)
@click.option("--threads", type=click.IntRange(1), help="Processors to use.  [default: all]")
def main(folder: Path | None, n_gen: int, depth: int, repetitions: int, threads: int | None) -> None:
    """Measure what our engine costs outside ONNX Runtime with 16 requests that decode."""
    with reported():
        package = open_package(folder or cached_package(demo_source()))
        options = LoadOptions(num_threads=threads, engine=EngineOptions(max_seqs=NUM_REQUESTS))
        click.echo(overheads(package, options, n_gen, depth, repetitions), nl=False)


def overheads(package: Package, options: LoadOptions, n_gen: int, depth: int, repetitions: int) -> str:
    """A table of medians."""
    ways = {"greedy": greedy(n_gen), "top-p 0.9 for all": replace(greedy(n_gen), temperature=1.0, top_p=0.9)}
    rows = []
    with timed_engine(package, options) as (engine, session):
        prompts = Prompts(package.manifest.vocab_size)
        for name, params in ways.items():
            once = partial(overhead, engine, session, prompts, params, num_requests=NUM_REQUESTS, depth=depth)
            once()
            step, inside, packing = map(median, zip(*(once() for _ in range(repetitions)), strict=True))
            rows.append([name, *(f"{ms:.2f}" for ms in (step, inside, packing)), f"{100 * (1 - inside / step):.1f} %"])
    columns = [f"step of {NUM_REQUESTS}", "ms", "in ONNX Runtime", "in the runner around it", "outside ONNX Runtime"]
    return markdown(rows, columns)


if __name__ == "__main__":
    main()
