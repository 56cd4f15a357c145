"""What strange or hostile requests get: always a status and an OpenAI error body."""

from __future__ import annotations

import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

CHAT = "/v1/chat/completions"
GOOD = {"messages": [{"role": "user", "content": "ahoy"}]}


def send(running: Any, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, data, {"content-type": "application/json"} | names)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, json.loads(content) if content else None


def check_error(answer: tuple[int, Any, Any], status: int, code: str, param: str | None = None) -> None:
    got, headers, body = answer
    assert (got, body["error"]["code"], body["error"]["param"]) == (status, code, param)
    assert headers["content-type"] == "application/json"
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert len(body["error"]["message"]) < 500
    assert "Traceback" not in body["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"nonsense",
        b"[" * 10_000 + b"]" * 10_000,
        b'{"messages":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"a"}],"max_tokens":1' + b"0" * 400 + b"}",
    ],
)
def test_malformed_json(running: Any, body: bytes) -> None:
    check_error(send(running, "POST", CHAT, body), 400, "invalid_json")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"messages"', b"3"])
def test_not_an_object(running: Any, body: bytes) -> None:
    check_error(send(running, "POST", CHAT, body), 400, "invalid_type")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content"),
        ({"messages": [{"content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls.0.function"),
        ({"messages": ["a"]}, "messages.0"),
        ({"max_tokens": 1e300}, "max_tokens"),
        ({"max_tokens": "3"}, "max_tokens"),
        ({"seed": 2**70}, "seed"),
        ({"n": 2**31}, "n"),
        ({"stream": 1}, "stream"),
        ({"stop": 3}, "stop"),
        ({"stop": ["x" * 257]}, "stop.0"),
        ({"stop_token_ids": list(range(257))}, "stop_token_ids"),
        ({"model": 3}, "model"),
    ],
)
def test_invalid_fields_are_named(running: Any, change: dict[str, Any], param: str) -> None:
    status, _, body = send(running, "POST", CHAT, GOOD | change)
    assert (status, body["error"]["param"]) == (400, param)


def test_a_missing_field_is_named(running: Any) -> None:
    check_error(send(running, "POST", CHAT, {}), 400, "missing_field", "messages")
    check_error(send(running, "POST", "/v1/completions", {}), 400, "missing_field", "prompt")


@pytest.mark.parametrize("prompt", [[], [[]], [-1], [2**40], [1.5], [True], ["a", 3], ["a"] * 65, {"a": 1}])
def test_invalid_prompts(running: Any, prompt: Any) -> None:
    check_error(send(running, "POST", "/v1/completions", {"prompt": prompt}), 400, "invalid_value", "prompt")


def test_too_many_choices(running: Any) -> None:
    check_error(send(running, "POST", "/v1/completions", {"prompt": ["a"] * 20, "n": 4}), 400, "invalid_value", "n")


@pytest.mark.parametrize("wrong", [{"n": 2, "best_of": 1}, {"best_of": 2, "stream": True}, {"best_of": 17}])
def test_best_of_is_at_least_n_and_not_streamed(running: Any, wrong: dict[str, Any]) -> None:
    check_error(send(running, "POST", "/v1/completions", {"prompt": "a", **wrong}), 400, "invalid_value", "best_of")


@pytest.mark.parametrize("path", ["/", "/v2", "/v1/chat", "/v1/embeddings", "/v1//models", "/%00", "/v1/models/../x"])
def test_unknown_routes(running: Any, path: str) -> None:
    status, _, body = send(running, "GET", path)
    assert status == 404
    assert body["error"]["code"] in {"not_found", "model_not_found"}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CHAT), ("PUT", CHAT), ("DELETE", "/v1/models"), ("PATCH", "/health")]
)
def test_unknown_methods(running: Any, method: str, path: str) -> None:
    answer = send(running, method, path)
    check_error(answer, 405, "method_not_allowed")
    assert answer[1]["allow"]


def test_a_body_that_is_too_large(running: Any) -> None:
    check_error(send(running, "POST", CHAT, b"x" * (9 << 20)), 413, "body_too_large")


def test_a_body_that_is_not_json_by_its_own_words(running: Any) -> None:
    answer = send(running, "POST", CHAT, GOOD, content_type="text/plain")
    check_error(answer, 415, "unsupported_media_type")


def test_a_header_that_is_too_large(running: Any) -> None:
    check_error(send(running, "GET", "/health", x_junk="x" * 20_000), 413, "body_too_large")


def test_what_is_not_http(running: Any) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "bad_request"


@pytest.mark.parametrize("text", ["a\0b", "  ", "مرحبا", "x" * 100_000])
def test_odd_but_good_texts(running: Any, text: str) -> None:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 3}
    status, _, answer = send(running, "POST", CHAT, body)
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == text[:3] or len(text) < 3


def test_request_ids_are_echoed_when_harmless_and_made_when_not(running: Any) -> None:
    def id_of(given: str) -> str:
        headers = send(running, "GET", "/health", x_request_id=given)[1]
        return str(headers["x-request-id"])

    assert id_of("abc-123:x.y_z") == "abc-123:x.y_z"
    for given in ("a b", "x" * 129, "\x1b[31m", ""):
        assert len(id_of(given)) == 32


def test_unknown_fields_are_warned_of_once(running: Any, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert send(running, "POST", CHAT, GOOD | {"wing\nspan": 3, "user": "me"})[0] == 200
    assert [record.getMessage() for record in caplog.records] == ["ignoring the unknown request field 'wing\\nspan'"]


def test_health_and_readiness(running: Any) -> None:
    assert send(running, "GET", "/health")[0] == 200
    assert send(running, "GET", "/ready")[0] == 200


@pytest.mark.parametrize(("path", "body"), [(CHAT, GOOD), ("/v1/completions", {"prompt": "ahoy"})])
def test_what_the_model_recommends_holds_where_nothing_is_asked(
    serve: Any, parrot_model: Any, path: str, body: Any
) -> None:
    running = serve(parrot_model(defaults={"temperature": 0.0, "top_k": 7}))
    running.engine.go.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(send, running, "POST", path, body | {"top_k": 3})
        while not running.engine.running and not answer.done():
            time.sleep(0.005)
        params = running.engine.running[0].params
        running.engine.go.set()
        assert answer.result(20)[0] == 200
    assert (params.temperature, params.top_k, params.top_p) == (0.0, 3, 1.0)
