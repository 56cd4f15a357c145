"""mistral.rs's HTTP as of June 2024: bodies as its clients send them, and what answers have of its own."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from mistralrs_onnx.tools.reference.mission import rows_of

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
COMMON: dict[str, Any] = {
    "model": "default",
    "logit_bias": {"97": 1.5},
    "max_tokens": 3,
    "n": 2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "stop": ["zz"],
    "temperature": 0.5,
    "top_p": 0.75,
    "top_k": 32,
    "grammar": {"type": "regex", "value": "[a-z]*"},
    "adapters": ["sql"],
}
FULL_CHAT = {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "top_logprobs": 2, "stream": False}
FULL_TEXT = {"prompt": "a", "best_of": 3, "echo": True, "suffix": None, "logprobs": 1, "stream": False, "user": "me"}


def send(running: Any, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text if text.startswith("data:") else json.loads(text)


def ask(running: Any, path: str, **body: Any) -> Any:
    status, answer = send(running, "POST", path, body)
    assert status == 200, answer
    return answer


@pytest.mark.parametrize(
    ("path", "schema", "own"), [(CHAT, "ChatRequest", FULL_CHAT), (TEXT, "CompletionRequest", FULL_TEXT)]
)
def test_all_fields_of_a_request_at_once(
    serve: Any, parrot_model: Any, tricks: Any, path: str, schema: str, own: dict[str, Any]
) -> None:
    assert {row.name for row in rows_of(f"body {schema}")} == COMMON.keys() | own.keys()
    running = serve(parrot_model(adapters=tricks("sql")))
    answer = ask(running, path, **COMMON, **own)
    assert len(answer["choices"]) == 2
    params = running.engine.submitted[-1].params
    assert (params.top_k, params.stop, params.max_tokens) == (32, ("zz",), 3)


def test_a_text_is_a_message_of_the_user(running: Any) -> None:
    assert ask(running, CHAT, messages="ahoy")["choices"][0]["message"]["content"] == "ahoy"
    assert running.model.chats[-1].messages == [{"role": "user", "content": "ahoy"}]


def test_messages_reach_the_template(running: Any) -> None:
    messages = [
        {"role": "system", "content": "be a parrot"},
        {"role": "user", "name": "jo", "content": [{"type": "text", "text": "ah"}, {"type": "text", "text": "oy"}]},
    ]
    ask(running, CHAT, messages=messages)
    assert running.model.chats[-1].messages == [messages[0], {"role": "user", "name": "jo", "content": "ahoy"}]


def test_a_suffix_is_refused_by_name(running: Any) -> None:
    assert ask(running, TEXT, prompt="a", suffix="")["choices"][0]["text"] == "a" * 16
    status, answer = send(running, "POST", TEXT, {"prompt": "a", "suffix": "z"})
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, "suffix", "unsupported_parameter")


@pytest.mark.parametrize("path", ["/docs", "/api-doc/openapi.json"])
def test_pages_about_the_api_are_not_here(running: Any, path: str) -> None:
    assert send(running, "GET", path)[0] == 404


@pytest.mark.parametrize("kind", ["chat", "completion", "chunk", "usage"])
def test_answers_have_these_fields(running: Any, kind: str) -> None:
    """And none that the table says are missing."""
    messages = [{"role": "user", "content": "ab"}]
    if kind == "completion":
        found = set(names(ask(running, TEXT, prompt="ab")))
    elif kind == "chunk":
        events = ask(running, CHAT, messages=messages, stream=True).split("\n\n")
        found = {name for event in events[:-2] for name in names(json.loads(event.removeprefix("data: ")))}
    else:
        answer = ask(running, CHAT, messages=messages, logprobs=True, top_logprobs=1)
        found = set(names(answer["usage"] if kind == "usage" else answer))
    rows = rows_of(f"answer {kind}")
    assert rows
    assert [row.name for row in rows if (row.name in found) == row.is_missing] == []


@pytest.mark.parametrize(("prompt", "n"), [("ab", 1), (["ab", "cde"], 2)])
@pytest.mark.parametrize("stream", [False, True])
def test_usage_tells_how_fast_it_was(running: Any, prompt: Any, n: int, stream: bool) -> None:
    options = {"include_usage": True} if stream else None
    answer = ask(running, TEXT, prompt=prompt, n=n, max_tokens=5, stream=stream, stream_options=options)
    *_, last = (json.loads(event[6:]) for event in answer.split("\n\n")[:-2]) if stream else [answer]
    usage = last["usage"]
    whole, read, written = (usage[f"total_{name}time_sec"] for name in ("", "prompt_", "completion_"))
    assert whole == pytest.approx(read + written)
    assert 0 < read < 20
    assert 0 < written < 20
    assert usage["avg_prompt_tok_per_sec"] == pytest.approx(usage["prompt_tokens"] / read)
    assert usage["avg_compl_tok_per_sec"] == pytest.approx(usage["completion_tokens"] / written)
    assert usage["avg_tok_per_sec"] == pytest.approx(usage["total_tokens"] / whole)


def names(value: Any, above: str = "") -> Iterator[str]:
    """Of fields at any depth, with dots between."""
    if isinstance(value, list):
        for each in value:
            yield from names(each, above)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield above + name
            yield from names(inner, f"{above}{name}.")
