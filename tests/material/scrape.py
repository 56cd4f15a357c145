"""What a server's metrics say, read as Prometheus reads them."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families


class Series(NamedTuple):
    """A name, and the labels but the model's, in the order of their names."""

    name: str
    labels: tuple[tuple[str, str], ...]


class Scrape:
    """All series of a moment, by name (without `mistralrs_`) and labels."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = {family.name: family for family in families}
        self._values = {
            _series(sample.name, sample.labels): sample.value for family in families for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """0 for a counter that did not count yet."""
        return self._values.get(_series(f"mistralrs_{name}", labels), 0.0)

    def since(self, before: Scrape, name: str, **labels: str) -> float:
        return self(name, **labels) - before(name, **labels)

    def labels(self, name: str) -> Iterator[dict[str, str]]:
        return (dict(series.labels) for series in self._values if series.name == f"mistralrs_{name}")

    def __len__(self) -> int:
        return len(self._values)


def _series(name: str, labels: dict[str, str]) -> Series:
    return Series(name, tuple(sorted(item for item in labels.items() if item[0] != "model_name")))


def get_metrics(port: int, accept: str = "") -> tuple[str, str]:
    """The text and its content type."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics", headers={"accept": accept} if accept else {})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200, text
    return text, response.headers["content-type"]


def scrape(port: int) -> Scrape:
    return Scrape(list(text_string_to_metric_families(get_metrics(port)[0])))
