"""Requests that choose adapters, and routes that load, unload, list and activate them."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from mistralrs_onnx.server.adapter_changes import AdapterChanges
from mistralrs_onnx.server.gate import Gate

GUARD = 20.0
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LOAD, UNLOAD, ACTIVATE = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/activate_adapters"


def send(running: Any, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=GUARD)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, json.dumps(body), {"content-type": "application/json"} | names)
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def say(running: Any, **fields: Any) -> str:
    """What the parrot says to "a"; it tells which adapter it has."""
    status, body = send(running, "POST", CHAT, {"messages": [{"role": "user", "content": "a"}]} | fields)
    assert status == 200, body
    return str(body["choices"][0]["message"]["content"])


def error_of(answer: tuple[int, Any]) -> tuple[int, str, str | None]:
    status, body = answer
    assert len(body["error"]["message"]) < 500
    return status, body["error"]["code"], body["error"]["param"]


def asked(running: Any, **fields: Any) -> tuple[int, str, str | None]:
    return error_of(send(running, "POST", TEXT, {"prompt": "a"} | fields))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def adapted(serve: Any, parrot_model: Any, tricks: Any) -> Any:
    return serve(parrot_model(adapters=tricks("sql", "poem")))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "a"),
        ({"adapters": None}, "a"),
        ({"adapters": []}, "a"),
        ({"adapters": ["sql"]}, "a [sql]"),
        ({"adapters": [{"name": "sql"}]}, "a [sql]"),
        ({"adapters": [{"name": "sql", "weight": 0.5}]}, "a [sql:0.5]"),
        ({"adapters": [{"name": "sql", "weight": 2}, "poem"]}, "a [sql:2+poem:1]"),
        ({"model": "poem"}, "a [poem]"),
        ({"model": "poem", "adapters": ["poem"]}, "a [poem]"),
        ({"model": "parrot", "adapters": ["poem"]}, "a [poem]"),
        ({"model": "default", "adapters": ["poem"]}, "a [poem]"),
    ],
)
def test_a_request_says_which_adapters_it_wants(adapted: Any, fields: Any, says: str) -> None:
    assert say(adapted, **fields) == says
    text = adapted.client().completions.create(
        model=fields.get("model", "default"),
        prompt="a",
        max_tokens=len(says),
        extra_body={"adapters": fields.get("adapters")},
    )
    assert text.choices[0].text == says


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_is_of_the_model_that_was_asked_for(adapted: Any, stream: bool) -> None:
    def name(model: str) -> set[str]:
        answer = adapted.client().completions.create(model=model, prompt="a", max_tokens=2, stream=stream)
        return {chunk.model for chunk in answer} if stream else {answer.model}

    assert name("poem") == {"poem"}
    assert name("parrot") == name("default") == {"parrot"}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"adapters": ["sq1"]}, (404, "adapter_not_found", "adapters")),
        ({"adapters": ["sql", "owl"]}, (404, "adapter_not_found", "adapters")),
        ({"model": "owl"}, (404, "model_not_found", "model")),
        ({"model": "sql", "adapters": ["poem"]}, (400, "invalid_value", "adapters")),
        ({"model": "sql", "adapters": []}, (400, "invalid_value", "adapters")),
        ({"model": "sql", "adapters": [{"name": "sql", "weight": 2}]}, (400, "invalid_value", "adapters")),
        ({"adapters": "sql"}, (400, "invalid_value", "adapters")),
        ({"adapters": [3]}, (400, "invalid_value", "adapters.0")),
        ({"adapters": [""]}, (400, "invalid_value", "adapters.0.name")),
        ({"adapters": ["x" * 257]}, (400, "invalid_value", "adapters.0.name")),
        ({"adapters": [{"weight": 1}]}, (400, "missing_field", "adapters.0.name")),
        ({"adapters": [{"name": "sql", "wieght": 1}]}, (400, "invalid_value", "adapters.0.wieght")),
        ({"adapters": [{"name": "sql", "weight": "1"}]}, (400, "invalid_value", "adapters.0.weight")),
        ({"adapters": [{"name": "sql", "weight": 1e9}]}, (400, "invalid_value", "adapters.0.weight")),
        ({"adapters": ["sql"] * 17}, (400, "invalid_value", "adapters")),
    ],
)
def test_what_cannot_be_is_refused(adapted: Any, fields: Any, error: Any) -> None:
    assert asked(adapted, **fields) == error
    assert adapted.engine.scopes == []


def test_unknown_adapters_disturb_nobody(adapted: Any) -> None:
    adapted.engine.go.clear()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(say, adapted, model="sql")
        wait_for(lambda: adapted.engine.running)
        for _ in range(20):
            assert asked(adapted, adapters=["owl"])[0] == 404
        adapted.engine.go.set()
        assert other.result(GUARD) == "a [sql]"
    assert len(adapted.engine.scopes) == 1


def test_a_name_that_is_nearly_right_is_suggested(adapted: Any) -> None:
    _, body = send(adapted, "POST", TEXT, {"prompt": "a", "adapters": ["sq1"]})
    assert "did you mean 'sql'?" in body["error"]["message"]
    _, body = send(adapted, "POST", TEXT, {"prompt": "a", "model": "owl"})
    assert "this server has 'parrot', 'sql', 'poem'." in body["error"]["message"]


def test_a_server_without_adapters_says_how_to_have_some(running: Any) -> None:
    assert say(running, adapters=[]) == say(running, adapters=None) == "a"
    for path, body in (
        (TEXT, {"prompt": "a", "adapters": ["sql"]}),
        (ACTIVATE, {"adapter_names": ["sql"]}),
        (UNLOAD, {"lora_name": "sql"}),
        (LOAD, {"lora_name": "sql", "lora_path": "tricks"}),
    ):
        status, answer = send(running, "POST", path, body)
        assert status == (403 if path == LOAD else 404)
        assert "--lora-modules NAME=PATH or --adapter-root" in answer["error"]["message"]
    assert send(running, "POST", ACTIVATE, {"adapter_names": []}) == (200, {"status": "ok", "active": []})


def test_an_xlora_has_no_adapters_to_choose(serve: Any, parrot_model: Any) -> None:
    mixing = serve(parrot_model(mixed_adapters=("first", "second")))
    assert say(mixing, adapters=[]) == say(mixing) == "a"
    for path, body in (
        (TEXT, {"prompt": "a", "adapters": ["first"]}),
        (ACTIVATE, {"adapter_names": ["first"]}),
        (UNLOAD, {"lora_name": "first"}),
        (LOAD, {"lora_name": "third", "lora_path": "tricks"}),
    ):
        status, answer = send(mixing, "POST", path, body)
        assert (status, answer["error"]["code"]) == (400, "unsupported")
        assert "mixes its own adapters (first, second) for each token (X-LoRA)" in answer["error"]["message"]
    status, answer = send(mixing, "POST", TEXT, {"prompt": "a", "model": "first"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_active_adapters_are_what_requests_get_that_do_not_say(adapted: Any) -> None:
    assert send(adapted, "POST", ACTIVATE, {"adapter_names": ["sql"]}) == (200, {"status": "ok", "active": ["sql"]})
    assert [say(adapted), say(adapted, adapters=[]), say(adapted, model="poem")] == ["a [sql]", "a", "a [poem]"]
    names = ["poem", "sql", "poem"]
    assert send(adapted, "POST", ACTIVATE, {"adapter_names": names})[1]["active"] == ["poem", "sql"]
    assert say(adapted) == "a [poem:1+sql:1]"
    assert error_of(send(adapted, "POST", ACTIVATE, {"adapter_names": ["sql", "owl"]}))[0] == 404
    assert say(adapted) == "a [poem:1+sql:1]"
    assert send(adapted, "POST", ACTIVATE, {"adapter_names": []})[1]["active"] == []
    assert say(adapted) == "a"


def test_adapters_are_listed_as_models(adapted: Any) -> None:
    send(adapted, "POST", ACTIVATE, {"adapter_names": ["sql"]})
    cards = {card.id: card for card in adapted.client().models.list()}
    assert list(cards) == ["parrot", "sql", "poem"]
    assert (cards["parrot"].root, cards["parrot"].parent) == ("parrot", None)
    assert (cards["sql"].root, cards["sql"].parent, cards["sql"].active) == ("parrot", "parrot", True)
    assert not cards["poem"].active
    assert {(card.object, card.owned_by, card.max_model_len) for card in cards.values()} == {("model", "local", 8192)}
    assert adapted.client().models.retrieve("poem").parent == "parrot"
    with pytest.raises(openai.NotFoundError):
        adapted.client().models.retrieve("owl")


def test_loaded_used_and_unloaded(adapted: Any) -> None:
    status, body = send(adapted, "POST", LOAD, {"lora_name": "new", "lora_path": "tricks"})
    assert (status, body["status"], body["lora_name"], body["rank"]) == (200, "ok", "new", 1)
    assert body["message"] == "Success: LoRA adapter 'new' added successfully."
    assert say(adapted, model="new") == "a [new]"
    answer = send(adapted, "POST", LOAD, {"lora_name": "new", "lora_path": "tricks"})
    assert error_of(answer) == (400, "adapter_exists", "lora_name")
    again = {"lora_name": "new", "lora_path": "tricks", "load_inplace": True}
    assert send(adapted, "POST", LOAD, again)[0] == 200
    assert send(adapted, "POST", UNLOAD, {"lora_name": "new"})[1]["message"].endswith("removed successfully.")
    assert error_of(send(adapted, "POST", UNLOAD, {"lora_name": "new"}))[:2] == (404, "adapter_not_found")
    assert asked(adapted, model="new")[0] == 404


def test_what_runs_keeps_an_adapter_that_is_unloaded(adapted: Any) -> None:
    adapted.engine.go.clear()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(say, adapted, model="sql")
        wait_for(lambda: adapted.engine.running)
        assert send(adapted, "POST", UNLOAD, {"lora_name": "sql"})[0] == 200
        adapted.engine.go.set()
        assert running.result(GUARD) == "a [sql]"


@pytest.mark.parametrize(
    ("path", "status", "code"), [("nowhere", 404, "adapter_path_not_found"), ("bug", 500, "internal_error")]
)
def test_a_load_that_fails_changes_nothing(adapted: Any, path: str, status: int, code: str) -> None:
    got, body = send(adapted, "POST", LOAD, {"lora_name": "new", "lora_path": path})
    assert (got, body["error"]["code"]) == (status, code)
    assert "secret" not in body["error"]["message"]
    assert asked(adapted, adapters=["new"])[0] == 404
    assert send(adapted, "POST", LOAD, {"lora_name": "new", "lora_path": "tricks"})[0] == 200


def test_loads_block_no_request_and_few_of_them_wait(adapted: Any) -> None:
    adapted.model.adapters.may.clear()
    with ThreadPoolExecutor(20) as pool:
        bodies = [{"lora_name": f"n{i}", "lora_path": "tricks"} for i in range(20)]
        loads = [pool.submit(send, adapted, "POST", LOAD, body) for body in bodies]
        wait_for(lambda: sum(load.done() for load in loads) == 4)
        refused = [load.result() for load in loads if load.done()]
        assert {error_of(answer)[:2] for answer in refused} == {(429, "lora_load_busy")}
        assert len(adapted.model.adapters.asked) == 1
        assert say(adapted, model="sql") == "a [sql]"
        assert send(adapted, "POST", ACTIVATE, {"adapter_names": ["sql"]})[0] == 200
        assert send(adapted, "POST", UNLOAD, {"lora_name": "sql"})[0] == 200
        adapted.model.adapters.may.set()
        assert sorted(load.result(GUARD)[0] for load in loads) == [200] * 15 + [400] + [429] * 4
    assert len(adapted.model.adapters.loaded()) == 16  # "poem" stayed, and that is all that there is room for


def test_a_load_whose_client_left_is_not_begun(adapted: Any) -> None:
    tricks = adapted.model.adapters
    tricks.may.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, adapted, "POST", LOAD, {"lora_name": "first", "lora_path": "tricks"})
        wait_for(lambda: tricks.asked)
        num_tasks = adapted.num_tasks()
        connection = http.client.HTTPConnection("127.0.0.1", adapted.port, timeout=GUARD)
        body = json.dumps({"lora_name": "second", "lora_path": "tricks"})
        connection.request("POST", LOAD, body, {"content-type": "application/json"})
        wait_for(lambda: adapted.num_tasks() > num_tasks)
        connection.close()
        wait_for(lambda: adapted.num_tasks() == num_tasks)
        tricks.may.set()
        assert first.result(GUARD)[0] == 200
    assert send(adapted, "POST", LOAD, {"lora_name": "third", "lora_path": "tricks"})[0] == 200
    assert tricks.asked == ["first", "third"]


def test_the_end_waits_for_the_load_that_runs_and_gives_up_those_that_wait(parrot_model: Any, tricks: Any) -> None:
    model = parrot_model(adapters=tricks())
    model.adapters.may.clear()

    async def run() -> list[Any]:
        gate = Gate()
        gate.open(model)
        changes = AdapterChanges(gate)
        first, second = (asyncio.create_task(changes.load(name, "tricks", replace=False)) for name in ("a", "b"))
        while not model.adapters.asked:
            await asyncio.sleep(0.005)
        ending = asyncio.create_task(changes.finish())
        await asyncio.wait([second])
        assert not ending.done()
        model.adapters.may.set()
        await ending
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = asyncio.run(asyncio.wait_for(run(), GUARD))
    model.close()
    assert (first.name, type(second), model.adapters.asked) == ("a", asyncio.CancelledError, ["a"])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (LOAD, {}, "lora_name"),
        (LOAD, {"lora_name": "new"}, "lora_path"),
        (LOAD, {"lora_name": "", "lora_path": "tricks"}, "lora_name"),
        (LOAD, {"lora_name": "new", "lora_path": "x" * 4097}, "lora_path"),
        (LOAD, {"lora_name": "new", "lora_path": "tricks", "load_inplace": 1}, "load_inplace"),
        (LOAD, [], None),
        (UNLOAD, {}, "lora_name"),
        (UNLOAD, {"lora_name": 3}, "lora_name"),
        (ACTIVATE, {}, "adapter_names"),
        (ACTIVATE, {"adapter_names": "sql"}, "adapter_names"),
        (ACTIVATE, {"adapter_names": [1]}, "adapter_names.0"),
        (ACTIVATE, {"adapter_names": ["sql"] * 17}, "adapter_names"),
    ],
)
def test_bodies_that_say_nothing_clear(adapted: Any, path: str, body: Any, param: str | None) -> None:
    status, _, got = error_of(send(adapted, "POST", path, body))
    assert (status, got) == (400, param)


@pytest.mark.parametrize("path", [LOAD, UNLOAD, ACTIVATE])
def test_pages_elsewhere_cannot_ask_for_it(adapted: Any, path: str) -> None:
    assert send(adapted, "POST", path, {}, content_type="text/plain")[0] == 415
