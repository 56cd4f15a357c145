"""Times an engine: prompts read and tokens generated, alone and at once; knows no table and no command line."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np

from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.engine import Engine, Output
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Workload:
    """Each of `concurrency` requests reads ("pp") or generates ("tg") `num_tokens`, `depth` tokens into its context."""

    kind: Literal["pp", "tg"]
    num_tokens: int
    depth: int = 0
    concurrency: int = 1

    @property
    def name(self) -> str:
        return f"{self.kind}{self.num_tokens}" + (f" @ d{self.depth}" if self.depth else "")


Turns = Sequence[Adapter | None]  # requests have these in turn, by their place in a batch
BASE: Turns = (None,)


class Timing(NamedTuple):
    """Tokens of all requests while the clock ran, and its seconds.

    `ttfts`: seconds of each request to its first token. `tpots`: of each that generates, between later ones, the mean.
    """

    num_tokens: int
    seconds: float
    ttfts: tuple[float, ...]
    tpots: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        return self.num_tokens / self.seconds


class Spread(NamedTuple):
    """Milliseconds of many requests: their mean and percentiles, which numpy interpolates linearly."""

    mean: float
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread | None:
        """None of nothing."""
        if not seconds:
            return None
        p50, p99 = np.percentile(seconds, [50, 99])
        return cls(1000 * fmean(seconds), 1000 * float(p50), 1000 * float(p99))


@dataclass(frozen=True, slots=True)
class Result:
    """Repetitions of one workload. Rates are tokens per second of one request; `throughput` is that of all."""

    workload: Workload
    timings: tuple[Timing, ...]

    @property
    def rates(self) -> list[float]:
        return [timing.rate / self.workload.concurrency for timing in self.timings]

    @property
    def rate(self) -> float:
        return fmean(self.rates)

    @property
    def rate_stdev(self) -> float:
        return stdev(self.rates) if len(self.timings) > 1 else 0.0

    @property
    def ms_per_token(self) -> float:
        return 1000 / self.rate

    @property
    def throughput(self) -> float:
        return fmean(timing.rate for timing in self.timings)

    @property
    def ttfts(self) -> Spread:
        spread = Spread.of([ttft for timing in self.timings for ttft in timing.ttfts])
        assert spread is not None, "every request has a first token"
        return spread

    @property
    def tpots(self) -> Spread | None:
        """None where nothing is generated."""
        return Spread.of([tpot for timing in self.timings for tpot in timing.tpots])


class Prompts:
    """Random token ids, other ones each time, so that the prefix cache has none of them."""

    def __init__(self, vocab_size: int, seed: int | None = None) -> None:
        self._vocab_size = vocab_size
        self._rng = np.random.default_rng(seed)

    def draw(self, num_tokens: int) -> list[int]:
        return [int(token_id) for token_id in self._rng.integers(0, self._vocab_size, num_tokens)]


def repeat(
    engine: Engine, workload: Workload, prompts: Prompts, repetitions: int, adapters: Turns = BASE, warmup: int = 1
) -> Result:
    """Measures after `warmup` runs that do not count. Raises RequestError when the context is too short for it."""
    for _ in range(warmup):
        measure(engine, workload, prompts, adapters)
    return Result(workload, tuple(measure(engine, workload, prompts, adapters) for _ in range(repetitions)))


def measure(engine: Engine, workload: Workload, prompts: Prompts, adapters: Turns = BASE) -> Timing:
    """One run. What lies before `depth` comes from the prefix cache, so the clock does not see it.

    "pp": from the moment that the requests are there to the last first token. "tg": from the moment that every
    request has its first token to the last end.
    """
    contexts = [prompts.draw(workload.depth) for _ in range(workload.concurrency)]
    if workload.depth:
        run(engine, contexts, greedy(1), prompts, adapters)
    is_prefill = workload.kind == "pp"
    asked = [context + prompts.draw(workload.num_tokens if is_prefill else 1) for context in contexts]
    batch = run(engine, asked, greedy(1 if is_prefill else workload.num_tokens + 1), prompts, adapters)
    ttfts = tuple(batch.ttft(request) for request in batch.requests)
    if is_prefill:
        return Timing(workload.num_tokens * workload.concurrency, max(ttfts), ttfts)
    tpots = tuple(map(tpot, batch.requests))
    begun = max(ttfts) + batch.released_at
    ends = [request.finished_at or begun for request in batch.requests]
    later = sum(max(0.0, end - begun) / each for end, each in zip(ends, tpots, strict=True) if each)
    return Timing(round(later), max(ends) - begun, ttfts, tpots)


def tpot(request: Request) -> float:
    """Seconds between tokens of a finished request, from its first one on, the mean."""
    first, last = request.first_token_at, request.finished_at
    assert first is not None, f"request {request.id} ended without a token"
    assert last is not None, f"request {request.id} has not ended"
    return (last - first) / (request.num_output - 1)


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


def run(
    engine: Engine, asked: Sequence[Sequence[int]], params: SamplingParams, prompts: Prompts, adapters: Turns = BASE
) -> Batch:
    """Serves prompts that start together, to their end. Raises RequestError."""
    batch = Batch(engine, len(asked))
    with held(engine, prompts.draw(1)):
        for index, prompt in enumerate(asked):
            sink, adapter = partial(batch.receive, index), adapters[index % len(adapters)]
            batch.requests.append(engine.submit(prompt, params, sink, adapter=adapter))
        batch.released_at = perf_counter()
    batch.join()
    return batch


@contextmanager
def held(engine: Engine, prompt: Sequence[int]) -> Iterator[None]:
    """Keeps the engine from its next step: what the block submits starts together."""
    is_held, release = threading.Event(), threading.Event()

    def block(_: Output) -> None:
        is_held.set()
        release.wait()

    engine.submit(prompt, greedy(1), block)
    is_held.wait()
    try:
        yield
    finally:
        release.set()


class Mark(NamedTuple):
    """A moment on the engine's thread. `run_seconds`: inside the runner so far."""

    time: float
    num_generated: int
    run_seconds: float


class Batch:
    """Requests that run at once. `begun` is when each was seen to have its first token, `ended` its last.

    Tokens that make no whole character are told with later ones, so who has one is asked, not who told of one.
    """

    begun: Mark
    ended: Mark

    def __init__(self, engine: Engine, num_requests: int) -> None:
        self.requests: list[Request] = []
        self.released_at = 0.0
        self._engine = engine
        self._has_begun = False
        self._unfinished = set(range(num_requests))
        self._errors: list[Exception] = []
        self._done = threading.Event()

    def receive(self, index: int, output: Output) -> None:
        """The sink of a request."""
        if not self._has_begun and all(request.first_token_at is not None for request in self.requests):
            self._has_begun = True
            self.begun = self._mark()
        if output.error is not None:
            self._errors.append(output.error)
        if output.finish_reason is not None:
            self._unfinished.remove(index)
            if not self._unfinished:
                self.ended = self._mark()
                self._done.set()

    def join(self) -> None:
        self._done.wait()
        if self._errors:
            raise self._errors[0]

    def ttft(self, request: Request) -> float:
        """Seconds to the first token of a request."""
        assert request.first_token_at is not None, f"request {request.id} ended without a token"
        return request.first_token_at - self.released_at

    def _mark(self) -> Mark:
        stats = self._engine.stats()
        return Mark(perf_counter(), stats.generation_tokens, stats.run_seconds)
