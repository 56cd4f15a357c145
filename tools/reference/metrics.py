"""What GET /metrics tells: the table that the exporter reads."""

from __future__ import annotations

from collections.abc import Iterator

from mistralrs_onnx.runtime.histogram import Bounds
from mistralrs_onnx.runtime.stats import Counts
from mistralrs_onnx.server.metrics.metric import Metric
from mistralrs_onnx.server.metrics.table import GROUPS

from .text import code, table

ABOVE = """# Metrics

`GET /metrics` of the server, in the text format of Prometheus, or as OpenMetrics where `Accept` asks for that. How to
collect them is said in [deployment](../guides/deployment.md#metrics).

A request here is one answer: one of the `n` to a prompt. Names are those of vLLM, with `mistralrs_` for `vllm:`, where
both count the same, so that its dashboards work when that is replaced; *elsewhere* has them, and those of llama.cpp's
server. Counters begin at 0 when the server starts, and go on when `/re_isq` replaces the model. Rates, means and shares
are left to queries.
"""
BELOW = """
On Linux there are also those that Prometheus defines for any process: `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_start_time_seconds`, `process_open_fds` and
`process_max_fds`.

No label has a client's words: `model_name` is the package's, `route` is as the server declares it
(`/v1/models/{name}`), and `unknown` for all that is no route.

## Buckets

"""
BUCKETS = {  # fields of Counts that share bounds, and what those are for
    "first_token": "Time to first token, seconds",
    "next_token": "Time between tokens, seconds",
    "request_time": "Other times, seconds",
    "request_prompt_tokens": "Tokens of a request",
    "step_tokens": "Tokens of a step",
}


def page() -> str:
    counts = Counts()
    bounds = [(note, _bounds(getattr(counts, field).bounds)) for field, note in BUCKETS.items()]
    return ABOVE + "".join(_groups()) + BELOW + table(["", "up to"], bounds)


def _groups() -> Iterator[str]:
    for group in GROUPS:
        yield f"\n## {group.title}\n\n"
        yield table(["metric", "type", "unit", "labels", "", "elsewhere"], [_row(metric) for metric in group.metrics])


def _row(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(map(code, metric.labels))
    like = ", ".join(map(code, metric.like.split(", ")))
    return code(metric.name), metric.kind, metric.unit, labels, metric.help, like


def _bounds(bounds: Bounds) -> str:
    return ", ".join(f"{bound:g}" if bound < 10**6 else str(bound) for bound in bounds)
