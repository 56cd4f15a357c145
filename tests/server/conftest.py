"""A server on a free port, with a model that repeats what it is told, a character for each token."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
from openai import OpenAI

from mistralrs_onnx.runtime.adapter_registry import AdapterRegistry, Part
from mistralrs_onnx.runtime.adapters import Adapter, Packed
from mistralrs_onnx.runtime.engine import Output, Sink, Usage
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec
from mistralrs_onnx.runtime.logprobs import TokenLogprob, TokenLogprobs
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.stats import EngineStats
from mistralrs_onnx.server.lifecycle import Server, ServerOptions
from mistralrs_onnx.server.requantize import Requantize

GUARD = 20.0  # seconds until a test that hangs gives up
STOP, BOMB = "🛑", "💣"  # saying the one, the parrot pauses; the other, it fails


def scored(token_id: int, num_top: int, seed: int | None = None) -> TokenLogprobs:
    """Every parrot is half sure, the more the smaller its seed; the next letters of the alphabet were less likely."""
    logprob = -0.5 - (seed or 0) % 100 / 100
    top = tuple(TokenLogprob(token_id + i, logprob - i) for i in range(num_top))
    return TokenLogprobs(token_id, logprob, top)


@dataclass(eq=False)
class Parroting:
    text: str
    prompt_tokens: int
    params: SamplingParams
    sink: Sink
    width: int  # characters of a token
    num_output: int = 0
    parent: Parroting | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    submitted_at: float = field(default_factory=time.perf_counter)
    first_token_at: float | None = None
    finished_at: float | None = None

    @property
    def next_letter(self) -> str:
        return self.text[self.num_output % len(self.text)]

    def step(self) -> bool:
        """Whether this was the last token."""
        letter = self.next_letter
        self.num_output += 1
        enough = self.num_output == (self.params.max_tokens or len(self.text))
        usage = Usage(self.prompt_tokens, self.prompt_tokens // 2, self.num_output)
        reason = ("length" if self.params.max_tokens else "stop") if enough else None
        error = RequestError("no such thing", param="messages") if letter == BOMB else None
        self.first_token_at = self.first_token_at or time.perf_counter()
        self.finished_at = time.perf_counter() if enough else None
        asked = self.params.logprobs
        logprobs = () if asked is None else (scored(ord(letter), asked, seed=self.params.seed),)
        ids = (ord(letter),)
        self.sink(Output(letter * self.width, ids, "error" if error else reason, None, error, usage, logprobs))
        return enough or error is not None


@dataclass
class Parrot:
    """The engine: steps every `pause` seconds while `go` is set."""

    max_requests: int = 1000
    pause: float = 0.001
    width: int = 1
    go: threading.Event = field(default_factory=threading.Event)
    running: list[Parroting] = field(default_factory=list)
    scopes: list[tuple[str, ...]] = field(default_factory=list)  # of all that were submitted
    grammars: list[Any] = field(default_factory=list)
    submitted: list[Parroting] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.go.set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        sink: Sink,
        cache_scope: tuple[str, ...] = (),
        adapter: Adapter | None = None,
        *,
        parent: Parroting | None = None,
        grammar: Any = None,
        prompt_logprobs: int | None = None,
        truncate: bool | None = None,
    ) -> Parroting:
        with self._lock:
            if len(self.running) >= self.max_requests:
                raise RequestError("The queue is full: try again.", status=429, code="queue_full")
            text = bytes(prompt_ids).decode() + (f" [{adapter.name}]" if adapter else "")
            parroting = Parroting(text, len(prompt_ids), params, sink, self.width, parent=parent)
            if prompt_logprobs is not None:
                parroting.prompt_logprobs = [None, *(scored(i, prompt_logprobs) for i in prompt_ids[1:])]
            self.running.append(parroting)
            self.submitted.append(parroting)
            self.scopes.append(cache_scope)
            self.grammars.append(grammar)
            return parroting

    def cancel(self, request: Parroting) -> None:
        with self._lock:
            if request in self.running:
                self.running.remove(request)

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self.running))

    def _run(self) -> None:
        while not self.closed:
            self.go.wait(self.pause)
            threading.Event().wait(self.pause)
            if self.go.is_set():
                with self._lock:
                    if any(request.next_letter == STOP for request in self.running):
                        self.go.clear()
                    self.running = [request for request in self.running if not request.step()]

    def close(self) -> None:
        self.closed = True
        self._thread.join()
        for request in self.running:
            request.sink(Output("", (), "cancelled", None, None, Usage(0, 0, 0)))
        self.running.clear()


class Letters:
    special_ids: frozenset[int] = frozenset()
    strips_space = False

    def __call__(self, token_id: int) -> bytes:
        return chr(token_id).encode()


class Bytes:
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode(errors="replace")


def trick(name: str, rank: int = 1) -> Adapter:
    """An adapter of one linear, with nothing in it."""
    packed = Packed(np.zeros((1, 1, 2, 16), np.float32), (np.zeros((16, 2), np.float32),))
    return Adapter(name, f"generation of {name}", rank, 1, {0: packed})


@dataclass
class Tricks:
    """The adapters of a parrot, which says at the end of what it says which it has: learned while `may` is set."""

    registry: AdapterRegistry = field(default_factory=AdapterRegistry)
    may: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may.set()

    @property
    def active(self) -> tuple[str, ...]:
        return self.registry.active

    def loaded(self) -> list[Adapter]:
        return self.registry.loaded()

    def __contains__(self, name: str) -> bool:
        return name in self.registry

    def select(self, parts: Sequence[Part] | None) -> Adapter | None:
        return self.registry.select(parts)

    def activate(self, names: Sequence[str]) -> None:
        self.registry.activate(names)

    def load(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        self.asked.append(name)
        assert self.may.wait(GUARD)
        if path == "bug":
            raise ValueError("secret")
        if path != "tricks":
            raise RequestError(
                f"{path!r} names no folder", status=404, code="adapter_path_not_found", param="lora_path"
            )
        self.registry.add(trick(name), replace=replace)
        return trick(name)

    def unload(self, name: str) -> Adapter:
        return self.registry.remove(name)


class Chat(NamedTuple):
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None
    extra: Mapping[str, Any] | None


@dataclass
class ParrotModel:
    engine: Parrot = field(default_factory=Parrot)
    name: str = "parrot"
    tokenizer: Bytes = field(default_factory=Bytes)
    chat_template: str = "the last message"
    context_length: int = 8192
    truncate_sequence: bool = False
    adapters: Tricks | None = None
    mixed_adapters: Sequence[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    template_source: str = ""
    chats: list[Chat] = field(default_factory=list)  # what the template was given

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> list[int]:
        self.chats.append(Chat(messages, tools, extra))
        return self.encode(messages[-1]["content"])

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(text.encode())

    @property
    def token_bytes(self) -> Letters:
        return Letters()

    def grammar(self, spec: GrammarSpec) -> GrammarSpec:
        return spec

    def close(self, drain: float = 0.0) -> None:
        self.engine.close()


@dataclass
class Running:
    server: Server
    model: ParrotModel
    thread: threading.Thread
    errors: list[BaseException]

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def engine(self) -> Parrot:
        return self.model.engine

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0, timeout=GUARD)

    def wait_idle(self) -> None:
        deadline = time.monotonic() + GUARD
        while self.engine.running:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def num_tasks(self) -> int:
        """Of the event loop, its own one included."""
        gc.collect()
        return len(asyncio.all_tasks(self.server._loop))


Serve = Callable[..., Running]


@contextmanager
def serving(model: ParrotModel, options: ServerOptions, requantize: Requantize | None = None) -> Iterator[Running]:
    ready = threading.Event()
    errors: list[BaseException] = []
    server = Server(lambda: model, options, lambda _: ready.set(), requantize)

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            errors.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(GUARD)
    running = Running(server, model, thread, errors)
    try:
        yield running
    finally:
        model.engine.go.set()
        if thread.is_alive():
            server.stop()
        thread.join(GUARD)
        assert not thread.is_alive()
        assert not errors


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(model: ParrotModel | None = None, requantize: Requantize | None = None, **options: Any) -> Running:
            model = model or ParrotModel()
            return stack.enter_context(serving(model, ServerOptions(port=0, **options), requantize))

        yield start


@pytest.fixture
def parrot() -> type[Parrot]:
    return Parrot


@pytest.fixture
def tricks() -> Callable[..., Tricks]:
    """Adapters that are loaded under the given names."""

    def make(*names: str) -> Tricks:
        made = Tricks()
        for name in names:
            made.registry.add(trick(name))
        return made

    return make


@pytest.fixture
def parrot_model() -> type[ParrotModel]:
    return ParrotModel


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One server for the tests that leave it as it was."""
    with serving(ParrotModel(), ServerOptions(port=0, drain_timeout=1.0)) as it:
        yield it


class Loading(NamedTuple):
    """A server whose model is not there before `finish` is called."""

    server: Server
    finish: Callable[[], None]


@pytest.fixture
def loading(parrot_model: Any) -> Iterator[Loading]:
    may_load, ready = threading.Event(), threading.Event()

    def load() -> Any:
        assert may_load.wait(GUARD)
        return parrot_model()

    def finish() -> None:
        may_load.set()
        assert ready.wait(GUARD)

    server = Server(load, ServerOptions(port=0), lambda _: ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    yield Loading(server, finish)
    may_load.set()
    server.stop()
    thread.join(GUARD)
