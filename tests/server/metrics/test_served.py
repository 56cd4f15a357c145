"""Counters of a real, tiny model move by exactly what was served."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI, RateLimitError
from scrape import Scrape, scrape
from tiny_packages import tiny_package

from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.core import Logits, Row
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.server.lifecycle import Server, ServerOptions
from mistralrs_onnx.server.metrics.table import METRICS
from mistralrs_onnx.speculate import SpeculateOptions

GUARD = 60.0
REASONS = ("stop", "length", "cancelled", "error")
OF_REQUESTS = ("e2e_request_latency_seconds", "request_prompt_tokens", "request_generation_tokens")
OF_ANSWERED = (
    "time_to_first_token_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
)


class Held:
    """The runner of a model, which runs only while `may` is set."""

    def __init__(self, model: Model) -> None:
        self.may = threading.Event()
        self.may.set()
        runner = model.engine._runner
        run = runner.run

        def held(rows: Sequence[Row]) -> Logits:
            assert self.may.wait(GUARD)
            return run(rows)

        runner.run = held  # type: ignore[method-assign]


class Serving:
    """A server, what holds its model up, and what it told last."""

    def __init__(self, server: Server, model: Model) -> None:
        self.server, self.model, self.held = server, model, Held(model)
        self.client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=GUARD)

    def complete(self, prompt: str, max_tokens: int, **options: Any) -> Any:
        extra = {"ignore_eos": True, **options.pop("extra_body", {})}
        return self.client.completions.create(
            model="default", prompt=prompt, max_tokens=max_tokens, temperature=0, extra_body=extra, **options
        )

    def scrape(self) -> Scrape:
        """Once the engine sleeps: a step's last counts come after its answers."""
        wait_for(lambda: self.model.engine._wake._waiters)  # type: ignore[attr-defined]
        return scrape(self.server.port)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def package(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tiny_llama, tmp_path_factory.mktemp("metrics"))


def serving(package: Path, options: LoadOptions) -> Iterator[Serving]:
    model, ready = load(package, options), threading.Event()
    server = Server(lambda: model, ServerOptions(port=0, drain_timeout=1.0), lambda _: ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(GUARD)
    made = Serving(server, model)
    try:
        yield made
    finally:
        made.held.may.set()
        made.client.close()
        server.stop()
        thread.join(GUARD)


@pytest.fixture(scope="module")
def plain(package: Path) -> Iterator[Serving]:
    """Two requests at a time, and no queue."""
    yield from serving(package, LoadOptions(EngineOptions(max_seqs=2, max_queue=0, kv_mem=1 << 24), num_threads=1))


@pytest.fixture(scope="module")
def guessing(package: Path) -> Iterator[Serving]:
    speculate = SpeculateOptions("lookup", gamma=4, adaptive=False)
    yield from serving(package, LoadOptions(EngineOptions(max_seqs=2), num_threads=1, speculate=speculate))


def finished(after: Scrape, before: Scrape) -> dict[str, float]:
    return {reason: after.since(before, "request_success_total", finished_reason=reason) for reason in REASONS}


def test_every_metric_of_the_table_is_there(plain: Serving) -> None:
    plain.complete("ab", 1)
    found = plain.scrape()
    for metric in METRICS:
        family = found.families[metric.name.removesuffix("_total")]
        assert family.samples, metric.name
        assert family.type == metric.kind
        if "model_name" in metric.labels:
            assert {sample.labels["model_name"] for sample in family.samples} == {plain.model.name}


def test_answers_whole_and_streamed(plain: Serving) -> None:
    before = plain.scrape()
    usages = [plain.complete("abcab", 7).usage, plain.complete("bca", 5, n=2).usage]
    chunks = list(plain.complete("cab", 6, stream=True, stream_options={"include_usage": True}))
    usages.append(chunks[-1].usage)
    after = plain.scrape()
    assert finished(after, before) == {"stop": 0, "length": 4, "cancelled": 0, "error": 0}
    drawn = sum(usage.completion_tokens for usage in usages)
    assert drawn == 7 + 2 * 5 + 6
    assert after.since(before, "generation_tokens_total") == drawn
    read = sum(usage.prompt_tokens for usage in usages) + usages[1].prompt_tokens  # each of two answers has the prompt
    assert after.since(before, "prompt_tokens_total") == read
    assert after.since(before, "request_prompt_tokens_sum") == read
    assert after.since(before, "request_generation_tokens_sum") == drawn
    for name in (*OF_REQUESTS, *OF_ANSWERED, "request_time_per_output_token_seconds"):
        assert after.since(before, f"{name}_count") == 4, name
    assert after.since(before, "inter_token_latency_seconds_count") == drawn - 4
    posted = {"method": "POST", "route": "/v1/completions", "status": "200"}
    assert after.since(before, "http_requests_total", **posted) == 3


def test_steps_and_their_tokens(plain: Serving) -> None:
    before = plain.scrape()
    usage = plain.complete("cbacb", 9, extra_body={"cache_salt": "of its own"}).usage
    after = plain.scrape()
    assert after.since(before, "engine_steps_total") == after.since(before, "iteration_tokens_count") == 9
    assert after.since(before, "iteration_tokens_sum") == usage.prompt_tokens + 8
    assert after.since(before, "engine_seconds_total", part="graph") > 0


def test_prefixes_that_were_cached(plain: Serving) -> None:
    before = plain.scrape()
    salt = {"cache_salt": "shared by two"}
    first = plain.complete("abcabcabc", 2, extra_body=salt).usage
    second = plain.complete("abcabcabc", 2, extra_body=salt).usage
    after = plain.scrape()
    assert first.prompt_tokens_details.cached_tokens == 0
    assert second.prompt_tokens_details.cached_tokens == second.prompt_tokens - 1
    assert after.since(before, "prefix_cache_queries_total") == first.prompt_tokens + second.prompt_tokens
    assert after.since(before, "prefix_cache_hits_total") == second.prompt_tokens - 1
    kept = after("kv_cache_slots", state="kept"), after("kv_cache_tokens", state="kept")
    assert kept[0] > 0
    assert kept[1] >= 64
    assert after("kv_cache_usage_perc") == after("kv_cache_tokens", state="running") == 0
    assert after("kv_cache_limit_bytes") == 1 << 24


def test_a_client_that_leaves(plain: Serving) -> None:
    before = plain.scrape()
    plain.held.may.clear()
    body = json.dumps({"prompt": "abc", "max_tokens": 9, "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", plain.server.port), timeout=GUARD) as connection:
        connection.sendall((head + body).encode())
        wait_for(lambda: plain.model.engine.stats().running)
        during = scrape(plain.server.port)
    assert (during("num_requests_running"), during("num_requests_waiting")) == (1, 0)
    assert during("kv_cache_slots", state="running") == 1
    assert 0 < during("kv_cache_usage_perc") < 1
    wait_for(lambda: plain.model.engine._cancelled)
    plain.held.may.set()
    after = plain.scrape()
    assert finished(after, before) == {"stop": 0, "length": 0, "cancelled": 1, "error": 0}
    assert after.since(before, "e2e_request_latency_seconds_count") == 1
    assert after("num_requests_running") == 0


def test_a_full_queue(plain: Serving) -> None:
    before = plain.scrape()
    plain.held.may.clear()
    threads = [threading.Thread(target=plain.complete, args=("abc", 2)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(plain.model.engine._live) == 2)
    for _ in range(3):
        with pytest.raises(RateLimitError):
            plain.complete("abc", 2)
    plain.held.may.set()
    for thread in threads:
        thread.join(GUARD)
    after = plain.scrape()
    assert after.since(before, "requests_rejected_total") == 3
    assert finished(after, before)["length"] == 2
    refused = {"method": "POST", "route": "/v1/completions", "status": "429"}
    assert after.since(before, "http_requests_total", **refused) == 3


def test_mistakes_are_no_requests(plain: Serving) -> None:
    before = plain.scrape()
    connection = http.client.HTTPConnection("127.0.0.1", plain.server.port, timeout=GUARD)
    for body in ("{", '{"prompt": 3.5}', '{"prompt": "a", "max_tokens": 100000}'):
        connection.request("POST", "/v1/completions", body)
        response = connection.getresponse()
        response.read()
        assert response.status == 400
    after = plain.scrape()
    refused = {"method": "POST", "route": "/v1/completions", "status": "400"}
    assert after.since(before, "http_requests_total", **refused) == 3
    assert set(finished(after, before).values()) == {0}
    assert after.since(before, "requests_rejected_total") == 0


def test_a_step_that_fails(plain: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plain.scrape()

    def fails(rows: Sequence[Row]) -> Logits:
        raise OSError("the device is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(plain.model.engine._runner, "run", fails)
        with pytest.raises(Exception, match="could not be run"):
            plain.complete("abc", 2)
    after = plain.scrape()
    assert finished(after, before) == {"stop": 0, "length": 0, "cancelled": 0, "error": 1}
    assert after.since(before, "requests_failed_total", code="internal_error") == 1
    failed = {"method": "POST", "route": "/v1/completions", "status": "500"}
    assert after.since(before, "http_requests_total", **failed) == 1


def test_guesses(guessing: Serving) -> None:
    before = guessing.scrape()
    usage = guessing.complete("abcabcabcabc", 60).usage
    after = guessing.scrape()
    drafts = after.since(before, "spec_decode_num_drafts_total")
    guessed = after.since(before, "spec_decode_num_draft_tokens_total")
    stood = after.since(before, "spec_decode_num_accepted_tokens_total")
    assert 0 < drafts <= guessed <= 4 * drafts
    assert 0 < stood <= guessed
    # Each step draws one token, and one more for each guess that stood.
    assert after.since(before, "engine_steps_total") == 60 - stood
    assert after.since(before, "iteration_tokens_sum") == usage.prompt_tokens + 59 - stood + guessed
    assert after.since(before, "generation_tokens_total") == 60
    assert after.since(before, "inter_token_latency_seconds_count") == 59
