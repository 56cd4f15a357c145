"""The table in both formats, at any time of a server's life, with labels that no client can add to."""

from __future__ import annotations

import asyncio
import http.client
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from scrape import get_metrics, scrape

from mistralrs_onnx.runtime.histogram import Histogram
from mistralrs_onnx.runtime.stats import EngineStats
from mistralrs_onnx.server.gate import Gate
from mistralrs_onnx.server.metrics.exporter import family
from mistralrs_onnx.server.metrics.metric import Build, HttpAnswer, State
from mistralrs_onnx.server.metrics.table import METRICS

GUARD = 20.0
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
STATE = State(
    {"m": EngineStats(kv_limit=1)}, "m", 0, {HttpAnswer("GET", "/health", "200"): 1}, Build("1", "onnxruntime", "2")
)


def send(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> int:
    connection.request(method, path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.fixture
def connection(running: Any) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", running.port, timeout=GUARD)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_row_is_exported_as_it_says(metric: Any) -> None:
    found = family(metric, STATE)
    assert (found.type, found.documentation) == (metric.kind, metric.help)
    assert found.name == metric.name.removesuffix("_total")
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert found.samples
    for sample in found.samples:
        assert set(sample.labels) - {"le"} == set(metric.labels)


def test_names_are_there_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("mistralrs_") for name in names)
    assert all(metric.help.endswith(".") for metric in METRICS)


def test_without_a_bound_there_is_no_share_of_it() -> None:
    (usage,) = (metric for metric in METRICS if metric.name.endswith("usage_perc"))
    assert family(usage, STATE._replace(engines={"m": EngineStats()})).samples == []
    held = EngineStats(kv_limit=400, kv_bytes=300, running_kv_tokens=2, kept_kv_tokens=1)
    assert [sample.value for sample in family(usage, STATE._replace(engines={"m": held})).samples] == [0.5]


def test_buckets_count_those_before_them() -> None:
    (first,) = (metric for metric in METRICS if "first_token" in metric.name)
    stats = EngineStats(first_token=Histogram((1, 2.5), [4, 0, 3], 50.0))
    found = {
        (sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value
        for sample in family(first, STATE._replace(engines={"m": stats})).samples
    }
    assert found == {
        ("bucket", "1.0"): 4,
        ("bucket", "2.5"): 4,
        ("bucket", "+Inf"): 7,
        ("count", None): 7,
        ("sum", None): 50,
    }


def test_both_formats_say_the_same(running: Any) -> None:
    scrape(running.port)  # so that there is an answer to count
    text, kind = get_metrics(running.port)
    assert kind.startswith("text/plain")
    plain = {each.name: each for each in parse_text(text)}
    text, kind = get_metrics(running.port, OPENMETRICS)
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    openmetrics = {each.name: each for each in parse_openmetrics(text)}
    for metric in METRICS:
        name = metric.name.removesuffix("_total")
        assert plain[name].type == openmetrics[name].type == metric.kind
        assert [each.name for each in plain[name].samples] == [each.name for each in openmetrics[name].samples]
    assert openmetrics["mistralrs_time_to_first_token_seconds"].unit == "seconds"


def test_answers_are_counted_by_method_route_and_status(running: Any, connection: http.client.HTTPConnection) -> None:
    before = scrape(running.port)
    chat = json.dumps({"messages": [{"role": "user", "content": "ahoy"}], "stream": True})
    for method, path, body in (
        ("POST", "/v1/chat/completions", chat),
        ("POST", "/v1/chat/completions", "{"),
        ("GET", "/v1/models/parrot", None),
        ("GET", "/v1/models/none", None),
        ("GET", "/v1/models/a/b", None),
        ("PUT", "/health", None),
    ):
        send(connection, method, path, body)
    after = scrape(running.port)
    moved = {
        tuple(labels.values()): after.since(before, "http_requests_total", **labels)
        for labels in after.labels("http_requests_total")
    }
    assert {labels: count for labels, count in moved.items() if count} == {
        ("GET", "/metrics", "200"): 1,
        ("POST", "/v1/chat/completions", "200"): 1,
        ("POST", "/v1/chat/completions", "400"): 1,
        ("GET", "/v1/models/{name}", "200"): 1,
        ("GET", "/v1/models/{name}", "404"): 2,
        ("PUT", "unknown", "405"): 1,
    }


def test_a_thousand_unknown_routes_are_one(running: Any, connection: http.client.HTTPConnection) -> None:
    send(connection, "GET", "/nothing")
    send(connection, "SEARCH", "/nothing")
    before = scrape(running.port)
    before = scrape(running.port)  # the first counts itself only now
    for number in range(1000):
        assert send(connection, "GET", f"/nothing/{number}?secret={number}") == 404
    for number in range(20):
        assert send(connection, f"METHOD{number}", "/nothing") in {400, 404, 405}
    after = scrape(running.port)
    assert after.since(before, "http_requests_total", method="GET", route="unknown", status="404") == 1000
    assert {labels["method"] for labels in after.labels("http_requests_total")} <= {"GET", "POST", "PUT", "other"}
    assert len(after) <= len(before) + 2  # other methods may be told of otherwise


def test_nothing_that_a_client_sends_is_told(running: Any, connection: http.client.HTTPConnection) -> None:
    secret = "sesame"
    body = json.dumps(
        {"messages": [{"role": "user", "content": secret, "name": secret}], "user": secret, "cache_salt": secret}
    )
    headers = {"content-type": "application/json", "authorization": secret, "x-request-id": secret}
    connection.request("POST", f"/v1/chat/completions?{secret}", body, headers)
    assert connection.getresponse().read()
    assert send(connection, "GET", f"/v1/models/{secret}") == 404
    assert secret not in get_metrics(running.port)[0]


def test_metrics_are_there_before_the_model_is(loading: Any) -> None:
    early = scrape(loading.server.port)
    assert [labels["version"] for labels in early.labels("build_info")]
    assert list(early.labels("num_requests_running")) == []
    loading.finish()
    late = scrape(loading.server.port)
    assert late.families["mistralrs_build_info"].samples[0].labels["model_name"] == "parrot"
    assert list(late.labels("num_requests_running")) == [{}]
    assert late("http_requests_total", method="GET", route="/metrics", status="200") == 1


def test_metrics_are_there_while_the_server_drains(serve: Any) -> None:
    running = serve()
    running.engine.go.clear()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=GUARD)
    body = json.dumps({"messages": [{"role": "user", "content": "ahoy"}]})
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    while not running.engine.running:
        pass
    running.server.stop()
    other = http.client.HTTPConnection("127.0.0.1", running.port, timeout=GUARD)
    while send(other, "GET", "/ready") != 503:
        pass
    assert scrape(running.port)("num_requests_running") == 1
    running.engine.go.set()
    connection.getresponse().read()


def test_adapters_are_counted(serve: Any, parrot_model: Any, tricks: Any) -> None:
    running = serve(parrot_model(adapters=tricks("one", "two")))
    assert scrape(running.port)("lora_adapters_loaded") == 2


@dataclass
class Counting:
    """A model whose engine has stats and nothing else."""

    name: str
    found: EngineStats
    closed: list[str] = field(default_factory=list)

    @property
    def engine(self) -> Counting:
        return self

    def stats(self) -> EngineStats:
        return self.found

    def close(self) -> None:
        self.found.rejected += 1  # as it may, until it has ended
        self.found.running = 0


def test_counts_of_models_that_were_replaced_stay() -> None:
    async def life() -> None:
        gate = Gate()
        for name, rejected in (("a", 1), ("a", 10), ("b", 100)):
            model: Any = Counting(name, EngineStats(running=1, kv_bytes=7, rejected=rejected))
            gate.open(model)
        before = gate.stats()
        assert {name: (each.running, each.rejected) for name, each in before.items()} == {"a": (2, 11), "b": (1, 100)}
        await gate.retire()
        after = gate.stats()
        assert {name: (each.running, each.rejected) for name, each in after.items()} == {"a": (0, 13), "b": (1, 100)}
        assert (after["a"].kv_bytes, after["b"].kv_bytes) == (0, 7)
        assert gate.newest is not None
        assert gate.newest.name == "b"

    asyncio.run(life())
