"""POST /re_isq: another model takes the place of the one that serves, and nobody notices."""

from __future__ import annotations

import gc
import http.client
import json
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.server.lifecycle import Server, ServerOptions

GUARD = 20.0
CHAT = {"messages": [{"role": "user", "content": "ahoy"}]}


@dataclass
class Shop:
    """Makes models, each as soon as it may."""

    make: Callable[[], Any]
    kinds: list[str] = field(default_factory=list)
    made: list[Any] = field(default_factory=list)
    may: threading.Event = field(default_factory=threading.Event)

    def __call__(self, kind: str) -> Any:
        self.kinds.append(kind)
        assert self.may.wait(GUARD)
        if kind == "Q9K":
            raise RequestError("quantization type 'Q9K' is unknown", param="ggml_type")
        if kind == "bug":
            raise ValueError("secret")
        self.made.append(self.make())
        return self.made[-1]


@pytest.fixture
def shop(parrot_model: Any) -> Shop:
    made = Shop(parrot_model)
    made.may.set()
    return made


def post(running: Any, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=GUARD)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"} | names)
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def re_isq(running: Any, kind: Any = "Q4K") -> tuple[int, Any]:
    return post(running, "/re_isq", {"ggml_type": kind})


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_new_requests_get_the_new_model_and_the_old_one_is_closed(serve: Any, shop: Shop) -> None:
    running = serve(requantize=shop)
    assert re_isq(running) == (200, {"status": "ok", "type": "Q4K"})
    assert shop.kinds == ["Q4K"]
    assert post(running, "/v1/chat/completions", CHAT)[0] == 200
    assert (len(running.engine.scopes), len(shop.made[0].engine.scopes)) == (0, 1)
    wait_for(lambda: running.engine.closed)


def test_requests_in_flight_finish_on_the_old_model(serve: Any, shop: Shop) -> None:
    running = serve(requantize=shop)
    running.engine.go.clear()
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(post, running, "/v1/chat/completions", CHAT)
        wait_for(lambda: running.engine.running)
        assert re_isq(running)[0] == 200
        assert post(running, "/v1/chat/completions", CHAT)[0] == 200
        assert not old.done()
        assert not running.engine.closed
        running.engine.go.set()
        assert old.result(GUARD)[1]["choices"][0]["message"]["content"] == "ahoy"
    wait_for(lambda: running.engine.closed)


def test_meanwhile_the_old_model_answers_and_a_second_attempt_is_refused(serve: Any, shop: Shop) -> None:
    running = serve(requantize=shop)
    shop.may.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(re_isq, running)
        wait_for(lambda: shop.kinds)
        assert post(running, "/v1/chat/completions", CHAT)[0] == 200
        status, body = re_isq(running)
        assert (status, body["error"]["code"]) == (409, "requantizing")
        shop.may.set()
        assert first.result(GUARD)[0] == 200
    assert len(shop.made) == 1


def test_there_are_never_three_models(serve: Any, shop: Shop) -> None:
    running = serve(requantize=shop)
    running.engine.go.clear()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(post, running, "/v1/chat/completions", CHAT)
        wait_for(lambda: running.engine.running)
        assert re_isq(running)[0] == 200
        second = pool.submit(re_isq, running, "Q8_0")
        time.sleep(0.05)
        assert shop.kinds == ["Q4K"]
        running.engine.go.set()
        assert second.result(GUARD)[0] == 200
    wait_for(lambda: shop.made[0].engine.closed)
    assert not shop.made[1].engine.closed


@pytest.mark.parametrize(("kind", "status", "code"), [("Q9K", 400, "invalid_value"), ("bug", 500, "internal_error")])
def test_a_failure_changes_nothing(serve: Any, shop: Shop, kind: str, status: int, code: str) -> None:
    running = serve(requantize=shop)
    got, body = re_isq(running, kind)
    assert (got, body["error"]["code"]) == (status, code)
    assert "secret" not in body["error"]["message"]
    assert post(running, "/v1/chat/completions", CHAT)[0] == 200
    assert len(running.engine.scopes) == 1
    assert re_isq(running)[0] == 200


def test_a_client_that_leaves_does_not_stop_it(serve: Any, shop: Shop) -> None:
    running = serve(requantize=shop)
    shop.may.clear()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=GUARD)
    connection.request("POST", "/re_isq", json.dumps({"ggml_type": "Q4K"}), {"content-type": "application/json"})
    wait_for(lambda: shop.kinds)
    connection.close()
    shop.may.set()
    wait_for(lambda: running.engine.closed)
    assert post(running, "/v1/chat/completions", CHAT)[0] == 200
    assert len(shop.made[0].engine.scopes) == 1


def test_a_model_that_comes_while_the_server_stops_is_closed(serve: Any, shop: Shop) -> None:
    running = serve(requantize=shop, drain_timeout=0.05)
    shop.may.clear()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(re_isq, running)
        wait_for(lambda: shop.kinds)
        running.server.stop()
        wait_for(lambda: running.engine.closed)
        shop.may.set()
    running.thread.join(GUARD)
    assert not running.thread.is_alive()
    assert shop.made[0].engine.closed


def test_nothing_holds_the_memory_of_the_old_model(parrot_model: Any, shop: Shop) -> None:
    loaded: list[weakref.ref[Any]] = []

    def load() -> Any:
        model = parrot_model()
        loaded.append(weakref.ref(model))
        return model

    ready = threading.Event()
    server = Server(load, ServerOptions(port=0), lambda _: ready.set(), shop)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(GUARD)
        assert post(server, "/v1/chat/completions", CHAT)[0] == 200
        assert re_isq(server)[0] == 200
        wait_for(lambda: gc.collect() >= 0 and loaded[0]() is None)
    finally:
        server.stop()
        thread.join(GUARD)


def test_a_server_of_a_package_refuses(running: Any) -> None:
    status, body = re_isq(running)
    assert (status, body["error"]["code"]) == (400, "unsupported")
    assert "started from a package" in body["error"]["message"]


@pytest.mark.parametrize("body", [{}, {"ggml_type": 4}, {"ggml_type": ""}, {"ggml_type": "x" * 33}, []])
def test_bodies_that_name_no_type(running: Any, body: Any) -> None:
    status, answer = post(running, "/re_isq", body)
    assert status == 400
    assert answer["error"]["param"] == ("ggml_type" if isinstance(body, dict) else None)


def test_pages_elsewhere_cannot_ask_for_it(running: Any) -> None:
    assert post(running, "/re_isq", {"ggml_type": "Q4K"}, content_type="text/plain")[0] == 415
