"""The whole path on the real model: HTTP, template, engine, graph and back; polite clients and rude ones."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import jsonschema
import psutil
import pytest
from openai import OpenAI

from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.server.lifecycle import Server, ServerOptions

GUARD = 120.0
MESSAGES = [{"role": "user", "content": "Name three fruits."}]


@pytest.fixture(scope="module")
def model(smollm2: Package) -> Model:
    """The server closes it."""
    return load(smollm2.path, LoadOptions(EngineOptions(max_seqs=8)))


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[Server]:
    ready = threading.Event()
    made = Server(lambda: model, ServerOptions(port=0, drain_timeout=1.0), lambda _: ready.set())
    thread = threading.Thread(target=made.run)
    thread.start()
    assert ready.wait(GUARD)
    yield made
    made.stop()
    thread.join(GUARD)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=GUARD)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "news")
]


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("name", ["weather", "news", None])
def test_calls_are_forced_on_a_model_that_never_learned_any(client: OpenAI, name: str | None, temperature: int) -> None:
    choice: Any = {"type": "function", "function": {"name": name}} if name else "required"
    message: Any = {"role": "user", "content": "What is new in Rome?"}
    with client.chat.completions.stream(
        model="default",
        messages=[message],
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=temperature,
        seed=1,
        max_tokens=120,
    ) as stream:
        answer = stream.get_final_completion().choices[0]
    assert answer.finish_reason == "tool_calls"
    assert not answer.message.content
    (call,) = answer.message.tool_calls or []
    assert call.function.name in ([name] if name else ["weather", "news"])
    jsonschema.validate(json.loads(call.function.arguments), TOOLS[0]["function"]["parameters"])


def test_chat_is_what_the_engine_says(client: OpenAI, model: Model) -> None:
    expected = "".join(
        output.text
        for output in model.engine.generate(model.encode_chat(MESSAGES), SamplingParams(max_tokens=24, temperature=0))
    )
    answer = client.chat.completions.create(model="default", messages=MESSAGES, max_tokens=24, temperature=0)
    assert answer.choices[0].message.content == expected
    chunks = client.chat.completions.create(
        model=model.name,
        messages=MESSAGES,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces, usage = [], None
    for chunk in chunks:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    assert "".join(pieces) == expected
    assert usage is not None
    assert usage.completion_tokens == answer.usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_the_same_seed_gives_the_same_text_and_another_seed_another(client: OpenAI) -> None:
    def ask(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="default", messages=MESSAGES, max_tokens=20, temperature=1.0, seed=seed
        )
        return answer.choices[0].message.content

    with ThreadPoolExecutor(3) as pool:
        first, again, other = pool.map(ask, [1, 1, 2])
    assert first == again
    assert first != other


def test_a_second_turn_finds_the_first_in_the_cache(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "Tell me about the sea. " * 30}]
    first = client.chat.completions.create(model="default", messages=messages, max_tokens=16, temperature=0)
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content or ""},
        {"role": "user", "content": "Go on."},
    ]
    second = client.chat.completions.create(model="default", messages=messages, max_tokens=4, temperature=0)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens


def test_completions_and_models(client: OpenAI, model: Model) -> None:
    answer = client.completions.create(model="default", prompt="Once upon a time", max_tokens=5, temperature=0)
    assert answer.usage.completion_tokens == 5
    assert [entry.id for entry in client.models.list()] == [model.name]


@pytest.mark.parametrize("count", [150, pytest.param(500, marks=pytest.mark.full)])
def test_nothing_remains_of_requests_of_which_most_leave(
    server: Server, model: Model, client: OpenAI, count: int
) -> None:
    """Seven of ten disconnect at a random moment; the others get all they asked for."""
    process = psutil.Process()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda seed: visit(server.port, random.Random(seed)), range(32)))
    settle(model)
    before = process.num_fds(), threading.active_count(), num_tasks(server)
    with ThreadPoolExecutor(16) as pool:
        stayed = sum(pool.map(lambda seed: visit(server.port, random.Random(seed)), range(100, 100 + count)))
    assert count / 5 <= stayed <= count / 2.5
    settle(model)
    wait_for(lambda: process.num_fds() <= before[0])
    wait_for(lambda: threading.active_count() <= before[1])
    wait_for(lambda: num_tasks(server) <= before[2])
    test_completions_and_models(client, model)


def visit(port: int, rng: random.Random) -> bool:
    """Whether it stayed to the end."""
    stays = rng.random() < 0.3
    num_tokens = rng.randrange(2, 7)
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": f"Number {rng.random()}?"}],
            "max_tokens": num_tokens,
            "stream": rng.random() < 0.7,
            "ignore_eos": True,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    data = head.encode() + body
    with socket.create_connection(("127.0.0.1", port), timeout=GUARD) as connection:
        if stays:
            connection.sendall(data)
            answer = connection.makefile("rb").read()
            assert b"[DONE]" in answer or b'"completion_tokens":%d' % num_tokens in answer, answer
            return True
        connection.sendall(data[: rng.randrange(1, 2 * len(data))])
        connection.settimeout(rng.random() * 0.3 + 0.001)
        with suppress(TimeoutError):
            connection.recv(rng.randrange(1, 1500))
    return False


def settle(model: Model) -> None:
    wait_for(lambda: model.engine.stats().running == 0)
    wait_for(lambda: model.engine.stats().waiting == 0)


def num_tasks(server: Server) -> int:
    gc.collect()
    return len(asyncio.all_tasks(server._loop))
