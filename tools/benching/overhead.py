"""What a step costs outside ONNX Runtime: packing, scheduling, sampling, detokenizing, telling.

`python -m mistralrs_onnx.tools.benching.overhead --help`.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import random
import textwrap
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import truediv
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

import click
from tokenizers import Tokenizer

from mistralrs_onnx.caching.cache import cached_package, demo_source
from mistralrs_onnx.model import LoadOptions, make_runner
from mistralrs_onnx.runners import chosen_kernels
from mistralrs_onnx.runtime.engine import Engine, EngineOptions
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.sampler import Sampled, Sampler
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.sessions import make_session, num_processors
from mistralrs_onnx.tools.cli.failures import reported
from mistralrs_onnx.tools.tables import markdown

from .measuring import Mark, Prompts, greedy, run
from .sampler_bench import SETTINGS

NUM_REQUESTS = 16


WAYS = tuple(name for name in SETTINGS if "mask" not in name)  # requests have no grammar here


class Overhead(NamedTuple):
    """Means of a step in milliseconds: in all, inside ONNX Runtime, in our runner around it, and in the sampler."""

    step: float
    onnxruntime: float
    packing: float
    sampling: float


class Intervals:
    """When something began and ended."""

    def __init__(self) -> None:
        self._all: list[tuple[float, float]] = []

    @contextmanager
    def note(self) -> Iterator[None]:
        begun = perf_counter()
        yield
        self._all.append((begun, perf_counter()))

    def between(self, begun: Mark, ended: Mark) -> list[float]:
        """Seconds of each."""
        return [stop - start for start, stop in self._all if begun.time < start and stop < ended.time]


class Sources(Prompts):
    """Tokens of the standard library of Python, from other places each time: random ones make distributions flat."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer.get_vocab_size())
        modules = (argparse, ast, inspect, textwrap, typing)
        self._token_ids = tokenizer.encode("\n".join(map(inspect.getsource, modules))).ids
        self._random = random.Random()

    def draw(self, num_tokens: int) -> list[int]:
        start = self._random.randrange(len(self._token_ids) - num_tokens)
        return self._token_ids[start : start + num_tokens]


class TimedSession:
    """A session that notes when it ran."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs = Intervals()

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        with self.runs.note():
            self._session.run_with_iobinding(binding)


@contextmanager
def timed_samplers() -> Iterator[Intervals]:
    """Of all engines meanwhile."""
    sample, runs = Sampler.sample, Intervals()

    def timed(*of_step: Any) -> Sampled:
        with runs.note():
            return sample(*of_step)

    with patch.object(Sampler, "sample", timed):
        yield runs


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
    engine: Engine, session: TimedSession, prompts: Sources, params: SamplingParams, *, num_requests: int, depth: int
) -> Overhead:
    """Of the steps in which all requests decode. The marks lie at one place of a step, so they bound whole steps."""
    with timed_samplers() as samplers:
        batch = run(engine, [prompts.draw(depth) for _ in range(num_requests)], params, prompts)
    inside, sampling = (runs.between(batch.begun, batch.ended) for runs in (session.runs, samplers))
    in_runner = batch.ended.run_seconds - batch.begun.run_seconds
    step = batch.ended.time - batch.begun.time
    seconds = step, sum(inside), in_runner - sum(inside), sum(sampling)
    return Overhead(*(1000 * each / len(inside) for each in seconds))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("-m", "--model", "folder", type=click.Path(path_type=Path), help="Package.  [default: the demo's]")
@click.option("-g", "--n-gen", type=click.IntRange(1), default=64, help="Tokens that each of 16 requests generates.")
@click.option("-d", "--depth", type=click.IntRange(1), default=100, help="Tokens that lie before.")
@click.option("-r", "--repetitions", type=click.IntRange(1), default=3)
@click.option(
    "-s", "--setting", "settings", type=click.Choice(WAYS), multiple=True, help="Of sampling.  [default: all]"
)
@click.option("--threads", type=click.IntRange(1), help="Processors to use.  [default: all]")
def main(
    folder: Path | None, n_gen: int, depth: int, repetitions: int, settings: tuple[str, ...], threads: int | None
) -> None:
    """Measure what our engine costs outside ONNX Runtime with 16 requests that decode."""
    with reported():
        package = open_package(folder or cached_package(demo_source()))
        options = LoadOptions(num_threads=threads, engine=EngineOptions(max_seqs=NUM_REQUESTS))
        click.echo(overheads(package, options, settings or WAYS, n_gen, depth, repetitions), nl=False)


def overheads(
    package: Package, options: LoadOptions, settings: Sequence[str], n_gen: int, depth: int, repetitions: int
) -> str:
    """A table of medians."""
    rows = []
    with timed_engine(package, options) as (engine, session):
        prompts = Sources(package.tokenizer())
        for name in settings:
            params = replace(greedy(n_gen), **SETTINGS[name])
            once = partial(overhead, engine, session, prompts, params, num_requests=NUM_REQUESTS, depth=depth)
            once()
            *parts, sampling = zip(*(once() for _ in range(repetitions)), strict=True)
            share = median(map(truediv, sampling, parts[0]))
            rows.append([name, *(f"{median(ms):.2f}" for ms in (*parts, sampling)), f"{100 * share:.1f} %"])
    columns = [f"step of {NUM_REQUESTS}", "ms", "in ONNX Runtime", "in the runner around it", "in the sampler", "share"]
    return markdown(rows, columns)


if __name__ == "__main__":
    main()
