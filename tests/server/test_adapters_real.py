"""Adapters on a real, tiny model over HTTP: mixed in one batch, streamed, unloaded under a running stream, stormed."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from golden import read_golden
from openai import NotFoundError, OpenAI
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder

from mistralrs_onnx.adapters import AdapterOptions
from mistralrs_onnx.compiler.compile import compile_folder
from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.server.lifecycle import Server, ServerOptions

GUARD = 120.0
LLAMA = read_golden()["llama"].model
LENGTH = 40  # tokens of each answer
LARGE = 256  # rank: 200 of them would take half a gigabyte
GROWTH = 64 << 20  # bytes of memory that a storm may leave behind, for what allocators keep
NAMES = ("tiny", "one", "two", "three")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small adapters, and two large ones."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two", "three")):
        write_adapter(folder / name, linears(LLAMA.shapes), seed=seed)
    for seed, name in enumerate(("large", "larger")):
        write_adapter(folder / name, linears(LLAMA.shapes), rank=LARGE, alpha=16, seed=10 + seed)
    return folder


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The server closes it."""
    folder = tmp_path_factory.mktemp("tiny")
    package = compile_folder(write_folder(LLAMA, folder / "tiny"), folder / "package")
    adapters = AdapterOptions({name: root / name for name in ("one", "two", "three")}, root=root)
    return load(package, LoadOptions(EngineOptions(max_seqs=16, max_model_len=64), adapters=adapters))


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
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=GUARD) as made:
        yield made


def ask(client: OpenAI, model: str = "tiny", adapters: Any = None, **options: Any) -> Any:
    return client.completions.create(
        model=model,
        prompt="ab",
        max_tokens=LENGTH,
        temperature=0.0,
        extra_body={"adapters": adapters, "ignore_eos": True},
        **options,
    )


def text(client: OpenAI, model: str = "tiny", adapters: Any = None) -> str:
    return str(ask(client, model, adapters).choices[0].text)


def streamed(client: OpenAI, model: str = "tiny", adapters: Any = None) -> str:
    return "".join(chunk.choices[0].text for chunk in ask(client, model, adapters, stream=True))


def change(client: OpenAI, verb: str, **body: Any) -> Any:
    """Raises the client's errors."""
    return client.post(f"/{verb}_lora_adapter", cast_to=object, body=body)


@pytest.fixture(scope="module")
def alone(client: OpenAI) -> dict[str, str]:
    """What the base and each adapter say when nothing else runs."""
    return {name: text(client, name) for name in NAMES}


def test_base_and_adapters_say_different_things(alone: dict[str, str]) -> None:
    assert len(set(alone.values())) == len(NAMES)


def test_every_way_to_ask_for_an_adapter_is_the_same(client: OpenAI, model: Model, alone: dict[str, str]) -> None:
    assert model.adapters is not None
    params = SamplingParams(max_tokens=LENGTH, temperature=0.0, ignore_eos=True)
    adapter = model.adapters.loaded()[0]
    assert "".join(out.text for out in model.engine.generate(model.encode("ab"), params, adapter)) == alone["one"]
    assert text(client, adapters=["one"]) == text(client, adapters=[{"name": "one"}]) == alone["one"]
    assert streamed(client, "one") == streamed(client, adapters=["one"]) == alone["one"]
    assert text(client, adapters=[]) == streamed(client, adapters=[]) == alone["tiny"]


def test_several_adapters_with_weights(client: OpenAI, alone: dict[str, str]) -> None:
    both = [{"name": "one", "weight": 0.5}, {"name": "two", "weight": -1.5}]
    assert text(client, adapters=both) == streamed(client, adapters=both)
    assert text(client, adapters=both) not in alone.values()
    assert text(client, adapters=[{"name": "one", "weight": 1.0}, {"name": "two", "weight": 0.0}]) == alone["one"]


def test_adapters_of_one_batch_do_not_mix(client: OpenAI, alone: dict[str, str]) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda i: (NAMES[i % 4], streamed(client, NAMES[i % 4])), range(24)))
    assert [name for name, said in answers if said != alone[name]] == []


def test_cached_prompts_are_of_one_adapter(client: OpenAI) -> None:
    def cached(model: str) -> int:
        answer = client.completions.create(model=model, prompt="hello there " * 2, max_tokens=1, temperature=0.0)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    assert [cached(name) for name in NAMES] == [0] * len(NAMES)
    assert all(cached(name) for name in NAMES)


class Brake:
    """A request that lets the engine go as many steps as it is told to, and holds it in the next."""

    def __init__(self, model: Model) -> None:
        self.num_steps = 0
        self._may = threading.Semaphore(0)
        self._request = model.engine.submit([5], SamplingParams(max_tokens=60, ignore_eos=True), self._hold)
        self._engine = model.engine
        wait_for(lambda: self.num_steps)

    def _hold(self, _: object) -> None:
        self.num_steps += 1
        assert self._may.acquire(timeout=GUARD)

    def allow(self, num_steps: int) -> None:
        until = self.num_steps + num_steps
        self._may.release(num_steps)
        wait_for(lambda: self.num_steps == until)

    def let_go(self) -> None:
        self._engine.cancel(self._request)
        self._may.release(1000)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_stream_ends_as_it_began_though_its_adapter_is_replaced_and_unloaded(
    client: OpenAI, model: Model, alone: dict[str, str]
) -> None:
    change(client, "load", lora_name="new", lora_path="one")
    brake = Brake(model)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(streamed, client, "new")
        wait_for(lambda: model.engine.stats().waiting)
        brake.allow(4)
        assert model.engine.stats().running == 2
        change(client, "load", lora_name="new", lora_path="two", load_inplace=True)
        second = pool.submit(streamed, client, "new")
        wait_for(lambda: model.engine.stats().waiting)
        change(client, "unload", lora_name="new")
        with pytest.raises(NotFoundError):
            ask(client, "new")
        assert not first.done()
        brake.let_go()
        assert (first.result(GUARD), second.result(GUARD)) == (alone["one"], alone["two"])


@pytest.mark.parametrize("num_loads", [20, pytest.param(200, marks=pytest.mark.full)])
def test_a_storm_of_loads_changes_no_stream_and_leaves_nothing(
    client: OpenAI, server: Server, model: Model, alone: dict[str, str], num_loads: int
) -> None:
    """16 streams run, over and over, while large adapters are loaded, used, replaced, made active and unloaded."""
    process = psutil.Process()
    storm(client, model, alone, 6)  # what is made once, such as lanes for this rank, is there after it
    settle(model)
    before = process.num_fds(), threading.active_count(), process.memory_info().rss
    gone = storm(client, model, alone, num_loads)
    settle(model)
    wait_for(lambda: process.num_fds() <= before[0])
    wait_for(lambda: threading.active_count() <= before[1])
    assert process.memory_info().rss - before[2] < GROWTH
    gc.collect()
    num_lanes = 16  # each may hold the adapter that it had last
    assert sum(adapter() is not None for adapter in gone) <= num_lanes
    assert model.adapters is not None
    assert [adapter.name for adapter in model.adapters.loaded()] == list(NAMES[1:])


def storm(client: OpenAI, model: Model, alone: dict[str, str], num_loads: int) -> list[weakref.ref[Adapter]]:
    """The adapters that came and went."""
    is_over = threading.Event()

    def watch(number: int) -> list[str]:
        """Names whose stream was not as it is alone; the base is asked for as none, for others may be active."""
        name, wrong, count = NAMES[number % 4], [], 0
        while not is_over.is_set() or not count:
            said = streamed(client, adapters=[] if name == "tiny" else [name])
            wrong += [name] if said != alone[name] else []
            count += 1
        return wrong

    with ThreadPoolExecutor(16) as pool:
        watching = [pool.submit(watch, number) for number in range(16)]
        try:
            gone = [adapter for i in range(num_loads) for adapter in gust(client, model, i)]
        finally:
            is_over.set()
        assert [wrong for each in watching for wrong in each.result(GUARD)] == []
    return gone


def gust(client: OpenAI, model: Model, number: int) -> list[weakref.ref[Adapter]]:
    assert model.adapters is not None
    name, seen = f"gust-{number}", []
    for path in ("large", "larger") if number % 2 else ("larger",):
        change(client, "load", lora_name=name, lora_path=path, load_inplace=True)
        seen += [weakref.ref(adapter) for adapter in model.adapters.loaded() if adapter.name == name]
    if number % 4 == 0:
        path = str(client.base_url).replace("/v1/", "/activate_adapters")
        answer = client.post(path, cast_to=object, body={"adapter_names": [name]})
        assert answer == {"status": "ok", "active": [name]}
    if number % 3 == 0:
        assert len(text(client, name)) > 0
    change(client, "unload", lora_name=name)
    return seen


def settle(model: Model) -> None:
    wait_for(lambda: model.engine.stats().running == 0)
    wait_for(lambda: model.engine.stats().waiting == 0)
    gc.collect()
