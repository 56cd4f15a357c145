"""What a load on a server came to: the block of figures that serving benchmarks have in common, or JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .http_answer import Answer

WIDTH, NAME_WIDTH, VALUE_WIDTH = 50, 40, 10
HEADINGS = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


class Latency(NamedTuple):
    """Milliseconds; numpy interpolates percentiles linearly."""

    mean: float
    median: float
    std: float
    p99: float


@dataclass(frozen=True, slots=True)
class Report:
    """Token counts are the server's. `latencies`: by the keys of HEADINGS, as far as there are any."""

    seconds: float
    completed: int
    errors: dict[str, int]
    unfinished: int
    input_tokens: int
    output_tokens: int
    latencies: dict[str, Latency]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


def report(answers: Sequence[Answer], seconds: float, num_requests: int) -> Report:
    good = [answer for answer in answers if answer.error is None]
    samples = {
        "ttft": [answer.times[0] for answer in good],
        "tpot": [answer.tpot for answer in good if answer.tpot is not None],
        "itl": [later - sooner for answer in good for sooner, later in pairwise(answer.times)],
        "e2el": [answer.times[-1] for answer in good],
    }
    return Report(
        seconds,
        len(good),
        dict(Counter(answer.error for answer in answers if answer.error is not None).most_common()),
        num_requests - len(answers),
        sum(answer.prompt_tokens for answer in good),
        sum(answer.output_tokens for answer in good),
        {key: latency(values) for key, values in samples.items() if values},
    )


def latency(seconds: Sequence[float]) -> Latency:
    ms = 1000 * np.asarray(seconds)
    return Latency(float(ms.mean()), float(np.median(ms)), float(ms.std()), float(np.percentile(ms, 99)))


def block(found: Report, rate: float, most: int | None) -> str:
    """`rate`, `most`: of the load."""
    settings: list[tuple[str, int | float]] = []
    if most is not None:
        settings.append(("Maximum request concurrency", most))
    if not math.isinf(rate):
        settings.append(("Request rate configured (RPS)", rate))
    counts: list[tuple[str, int | float]] = [
        ("Successful requests", found.completed),
        ("Failed requests", found.failed),
        *([("Unfinished requests", found.unfinished)] if found.unfinished else []),
        *settings,
        ("Benchmark duration (s)", found.seconds),
        ("Total input tokens", found.input_tokens),
        ("Total generated tokens", found.output_tokens),
        ("Request throughput (req/s)", found.completed / found.seconds),
        ("Output token throughput (tok/s)", found.output_tokens / found.seconds),
        ("Total token throughput (tok/s)", (found.input_tokens + found.output_tokens) / found.seconds),
    ]
    lines = [" Serving Benchmark Result ".center(WIDTH, "="), *(_line(*count) for count in counts)]
    for key, figures in found.latencies.items():
        lines.append(HEADINGS[key].center(WIDTH, "-"))
        names = ("Mean", "Median", "P99")
        values = (figures.mean, figures.median, figures.p99)
        lines += [_line(f"{name} {key.upper()} (ms)", value) for name, value in zip(names, values, strict=True)]
    return "\n".join([*lines, "=" * WIDTH, ""])


def _line(name: str, value: float) -> str:
    shown = f"{value:.2f}" if isinstance(value, float) else str(value)
    return f"{name}:".ljust(NAME_WIDTH) + shown.rjust(VALUE_WIDTH)


def as_record(found: Report) -> dict[str, Any]:
    """Under the names of vLLM's benchmark."""
    record: dict[str, Any] = {
        "duration": found.seconds,
        "completed": found.completed,
        "failed": found.failed,
        "unfinished": found.unfinished,
        "total_input_tokens": found.input_tokens,
        "total_output_tokens": found.output_tokens,
        "request_throughput": found.completed / found.seconds,
        "output_throughput": found.output_tokens / found.seconds,
        "total_token_throughput": (found.input_tokens + found.output_tokens) / found.seconds,
        "errors": found.errors,
    }
    for key, figures in found.latencies.items():
        record |= {f"{name}_{key}_ms": value for name, value in figures._asdict().items()}
    return record
