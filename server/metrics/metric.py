"""What a metric is: a row of the table from which exporter and reference are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from mistralrs_onnx.runtime.histogram import Histogram
from mistralrs_onnx.runtime.stats import EngineStats

PREFIX = "mistralrs_"
MODEL = "model_name"
Kind = Literal["counter", "gauge", "histogram"]
Value = int | float | Histogram


class Build(NamedTuple):
    """What serves: versions, and which of ONNX Runtime's distributions."""

    version: str
    onnxruntime: str
    onnxruntime_version: str


class HttpAnswer(NamedTuple):
    """`route` as it was declared, never as it was asked for."""

    method: str
    route: str
    status: str


class State(NamedTuple):
    """Of a server, now. `engines`: by name of the model, those of models that were replaced included. `model`: the
    name of the one that serves, empty before it is loaded."""

    engines: Mapping[str, EngineStats]
    model: str
    num_adapters: int
    http: Mapping[HttpAnswer, int]
    build: Build


class Sample(NamedTuple):
    """A value, and what each of its metric's labels is."""

    labels: tuple[str, ...]
    value: Value


@dataclass(frozen=True, slots=True)
class Metric:
    """`like`: what other servers have for it, which may count a little differently."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[State], Iterator[Sample]]
    like: str = ""


def _of_engine(
    kind: Kind,
    name: str,
    unit: str,
    text: str,
    read: Callable[[EngineStats], Value | Mapping[str, int | float] | None],
    label: str = "",
    like: str = "",
) -> Metric:
    """Read off what an engine counts; with `label` a mapping from what that may be. None is left out."""

    def samples(state: State) -> Iterator[Sample]:
        for model, stats in state.engines.items():
            found = read(stats)
            if isinstance(found, Mapping):
                yield from (Sample((model, key), value) for key, value in found.items())
            elif found is not None:
                yield Sample((model,), found)

    return Metric(PREFIX + name, kind, unit, text, (MODEL, label) if label else (MODEL,), samples, like)


counter = partial(_of_engine, "counter")
gauge = partial(_of_engine, "gauge")
histogram = partial(_of_engine, "histogram")
