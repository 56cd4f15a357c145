"""What a step costs outside ONNX Runtime: packing, scheduling, sampling, detokenizing, telling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

from mistralrs_onnx.model import LoadOptions, make_runner
from mistralrs_onnx.runtime.engine import Engine
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.sessions import make_session

from .measuring import Mark, Prompts, run


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
    session = TimedSession(make_session(package.engine(options.kv_dtype), options.num_threads))
    runner = make_runner(package, options, session)
    ends = frozenset(package.manifest.eos_token_ids)
    engine = Engine(runner, package.tokenizer(), ends, package.manifest.context_length, options.engine)
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
