"""The table of metrics in the text formats of Prometheus; knows no single metric."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from sanic import Request
from sanic.response import BaseHTTPResponse

from mistralrs_onnx.runtime.histogram import Histogram
from mistralrs_onnx.server.gate import Gate

from .metric import Build, HttpAnswer, Kind, Metric, State
from .table import METRICS

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"})
OTHER, UNKNOWN = "other", "unknown"
FAMILIES: Mapping[Kind, type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Exporter(Collector):
    """Of one server: counts its answers, and reads all else where it is kept. Lives on the event loop's thread."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._http: Counter[HttpAnswer] = Counter()
        self._build = _build()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def count(self, request: Request, response: BaseHTTPResponse) -> None:
        """Middleware. None of the labels is a client's word, so that there are never many."""
        method = request.method if request.method in METHODS else OTHER
        self._http[HttpAnswer(method, route_of(request), str(response.status))] += 1

    def text(self, accept: str) -> tuple[bytes, str]:
        """In the format that an Accept header prefers, and that format's content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Family]:
        model = self._gate.newest
        adapters = None if model is None else model.adapters
        state = State(
            self._gate.stats(),
            "" if model is None else model.name,
            0 if adapters is None else len(adapters.loaded()),
            self._http,
            self._build,
        )
        return (family(metric, state) for metric in METRICS)


def family(metric: Metric, state: State) -> Family:
    unit = metric.unit if metric.name.removesuffix("_total").endswith(f"_{metric.unit}") else ""
    found = FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels, unit=unit)
    for labels, value in metric.read(state):
        if isinstance(value, Histogram):
            assert isinstance(found, HistogramMetricFamily)
            found.add_metric(labels, list(_buckets(value)), value.total)
        else:
            assert not isinstance(found, HistogramMetricFamily)
            found.add_metric(labels, value)
    return found


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """Each counts those before it."""
    num_up_to = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        num_up_to += count
        yield floatToGoString(bound), num_up_to  # type: ignore[no-untyped-call]


def route_of(request: Request) -> str:
    """As it is declared, with parameters in braces."""
    route = request.route
    return UNKNOWN if route is None else "/" + re.sub(r"<(\w+)[^>]*>", r"{\1}", route.path).lstrip("/")


def _build() -> Build:
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return Build(version("mistralrs-onnx"), name, version(name))
        except PackageNotFoundError:
            continue
    return Build(version("mistralrs-onnx"), "", "")
