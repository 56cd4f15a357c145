"""A server from its port's binding to its end."""

from __future__ import annotations

import http.client
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistralrs_onnx.server.lifecycle import Server, ServerOptions

GUARD = 20.0
CONFTEST = Path(__file__).with_name("conftest.py")
BODY = json.dumps({"messages": [{"role": "user", "content": "ahoy"}], "stream": True})


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD)


def get(port: int, path: str) -> tuple[int, http.client.HTTPMessage, Any]:
    connection = connect(port)
    connection.request("GET", path)
    response = connection.getresponse()
    answer = response.status, response.headers, json.loads(response.read())
    connection.close()
    return answer


def ask(port: int) -> http.client.HTTPConnection:
    connection = connect(port)
    connection.request("POST", "/v1/chat/completions", BODY, {"content-type": "application/json"})
    return connection


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_port_in_use_is_an_error_at_once(running: Any, parrot_model: Any) -> None:
    with pytest.raises(OSError, match="in use"):
        Server(parrot_model, ServerOptions(port=running.port))


def test_answers_503_until_the_model_is_loaded(loading: Any) -> None:
    port = loading.server.port
    assert get(port, "/health")[0] == 200
    for path in ("/ready", "/v1/models", "/v1/models/parrot"):
        status, headers, body = get(port, path)
        assert (status, headers["retry-after"], body["error"]["code"]) == (503, "5", "loading")
    assert ask(port).getresponse().status == 503
    loading.finish()
    assert get(port, "/ready")[0] == 200


def test_a_model_that_does_not_load_ends_the_server() -> None:
    def load() -> Any:
        raise ValueError("no such package")

    server = Server(load, ServerOptions(port=0))
    with pytest.raises(ValueError, match="no such package"):
        server.run()
    with pytest.raises(ConnectionRefusedError):
        get(server.port, "/health")


def test_stopping_lets_running_answers_finish_and_takes_no_new_ones(serve: Any) -> None:
    running = serve()
    running.engine.go.clear()
    old = ask(running.port)
    wait_for(lambda: running.engine.running)
    running.server.stop()
    wait_for(lambda: get(running.port, "/ready")[0] == 503)
    refused = ask(running.port).getresponse()
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert json.loads(refused.read())["error"]["code"] == "draining"
    running.engine.go.set()
    answer = old.getresponse().read()
    assert answer.endswith(b"data: [DONE]\n\n")
    assert b"draining" not in answer
    running.thread.join(GUARD)
    assert not running.thread.is_alive()


def test_answers_that_take_too_long_are_cut_off_with_an_error(serve: Any) -> None:
    running = serve(drain_timeout=0.05)
    connection = connect(running.port)
    body = json.loads(BODY) | {"max_tokens": 10**6}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    running.server.stop()
    last = response.read().rstrip().rpartition(b"data: ")[2]
    assert json.loads(last)["error"]["code"] == "draining"
    running.thread.join(GUARD)
    assert not running.thread.is_alive()


def test_servers_can_follow_each_other_in_one_process(serve: Any) -> None:
    first, second = serve(), serve()
    assert get(first.port, "/health")[0] == get(second.port, "/health")[0] == 200


def serve_here() -> None:
    """What the processes of the tests below run: a parrot that takes its time."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may have ignored it (nohup)
    here = runpy.run_path(str(CONFTEST), run_name="conftest")
    model = here["ParrotModel"](here["Parrot"](pause=float(sys.argv[1])))
    server = Server(lambda: model, ServerOptions(port=0), lambda _: os.write(1, b"%d\n" % server.port))
    server.run()


def start_process(pause: float) -> tuple[subprocess.Popen[str], int]:
    command = f"import runpy; runpy.run_path({str(__file__)!r}, run_name='here')['serve_here']()"
    process = subprocess.Popen([sys.executable, "-c", command, str(pause)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_ends_with_success(number: signal.Signals) -> None:
    process, port = start_process(pause=0.05)
    with process:
        response = ask(port).getresponse()
        process.send_signal(number)
        assert response.read().endswith(b"data: [DONE]\n\n")
        assert process.wait(GUARD) == 0


def test_who_loads_is_told_that_nobody_waits() -> None:
    stopped = threading.Event()

    def load() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(GUARD)
        raise ValueError("given up")

    with pytest.raises(ValueError, match="given up"):
        Server(load, ServerOptions(port=0), on_stop=stopped.set).run()


def test_a_terminal_gets_no_advice_of_libraries(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sanic.mixins.startup.is_atty", lambda: True)
    serve()
    assert caplog.text == ""


def test_a_second_signal_ends_at_once() -> None:
    process, port = start_process(pause=5.0)
    with process:
        connection = ask(port)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: get(port, "/ready")[0] == 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == 130
        connection.close()
