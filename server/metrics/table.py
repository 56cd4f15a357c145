"""Everything that GET /metrics tells, in one table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .engine import ENGINE, LATENCIES, REQUESTS, TOKENS
from .metric import MODEL, PREFIX, Build, HttpAnswer, Metric, Sample, State


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics of one subject."""

    title: str
    metrics: tuple[Metric, ...]


def _adapters(state: State) -> Iterator[Sample]:
    if state.model:
        yield Sample((state.model,), state.num_adapters)


def _http(state: State) -> Iterator[Sample]:
    return (Sample(tuple(answer), count) for answer, count in state.http.items())


def _build(state: State) -> Iterator[Sample]:
    yield Sample((*state.build, state.model), 1)


SERVER = (
    Metric(
        f"{PREFIX}http_requests_total",
        "counter",
        "requests",
        "HTTP responses begun. Unknown routes are unknown, unknown methods other.",
        HttpAnswer._fields,
        _http,
    ),
    Metric(
        f"{PREFIX}lora_adapters_loaded",
        "gauge",
        "adapters",
        "Adapters that requests may name.",
        (MODEL,),
        _adapters,
    ),
    Metric(
        f"{PREFIX}build_info",
        "gauge",
        "",
        "Always 1: what serves, and the package that it serves.",
        (*Build._fields, MODEL),
        _build,
    ),
)
GROUPS = (
    Group("Requests", REQUESTS),
    Group("Latencies", LATENCIES),
    Group("Tokens", TOKENS),
    Group("Engine and memory", ENGINE),
    Group("Server", SERVER),
)
METRICS = tuple(metric for group in GROUPS for metric in group.metrics)
