from __future__ import annotations

import math

import numpy as np
import pytest

from mistralrs_onnx.tools.benching.http_answer import Answer
from mistralrs_onnx.tools.benching.http_report import Report, as_record, block, latency, report

ANSWERS = [
    Answer((0.1, 0.2, 0.4), prompt_tokens=10, output_tokens=3),
    Answer((0.3,), prompt_tokens=20, output_tokens=1),
    Answer(error="429: full"),
    Answer(error="429: full"),
    Answer(error="the stream broke off"),
]


@pytest.fixture
def found() -> Report:
    return report(ANSWERS, seconds=2.0, num_requests=7)


def test_what_came_is_counted(found: Report) -> None:
    assert (found.completed, found.failed, found.unfinished) == (2, 3, 2)
    assert found.errors == {"429: full": 2, "the stream broke off": 1}
    assert (found.input_tokens, found.output_tokens) == (30, 4)


def test_latencies_are_those_of_whole_answers(found: Report) -> None:
    assert found.latencies["ttft"].mean == pytest.approx(200)
    assert found.latencies["tpot"] == pytest.approx((150, 150, 0, 150))  # of the one that has several tokens
    assert found.latencies["itl"].mean == pytest.approx(150)
    assert found.latencies["itl"].std == pytest.approx(50)
    assert found.latencies["e2el"].median == pytest.approx(350)


def test_percentiles_are_those_of_numpy() -> None:
    seconds = list(np.random.default_rng(0).exponential(0.02, 301))
    expected = [1000 * f(seconds) for f in (np.mean, np.median, np.std, lambda x: np.percentile(x, 99))]
    assert latency(seconds) == pytest.approx(tuple(expected))


def test_the_block_is_the_usual_one(found: Report) -> None:
    lines = block(found, rate=4.0, most=16).splitlines()
    assert lines[0] == "============ Serving Benchmark Result ============"
    assert {len(line) for line in lines} == {50}
    values = dict(line.rsplit(None, 1) for line in lines if line[0] not in "=-")
    assert values["Successful requests:"] == "2"
    assert values["Maximum request concurrency:"] == "16"
    assert values["Request rate configured (RPS):"] == "4.00"
    assert values["Benchmark duration (s):"] == "2.00"
    assert values["Output token throughput (tok/s):"] == "2.00"
    assert values["Total token throughput (tok/s):"] == "17.00"
    assert values["Mean TTFT (ms):"] == "200.00"
    assert values["P99 ITL (ms):"] == "199.00"
    assert "-----Time per Output Token (excl. 1st token)------" in lines


def test_without_a_whole_answer_there_are_no_latencies() -> None:
    found = report([], seconds=1.0, num_requests=3)
    text = block(found, math.inf, None)
    assert "Unfinished requests:" in text
    assert "TTFT" not in text
    assert "Request rate" not in text
    assert as_record(found)["output_throughput"] == 0


def test_a_record_has_the_names_of_vllm(found: Report) -> None:
    record = as_record(found)
    assert record["completed"] == 2
    assert record["request_throughput"] == 1.0
    names = {f"{figure}_{key}_ms" for figure in ("mean", "median", "std", "p99") for key in ("ttft", "tpot", "itl")}
    assert names <= set(record)
