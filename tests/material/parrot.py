"""A model for conversations that needs no package: it says the last message again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mistralrs_onnx.runtime.adapter_registry import AdapterRegistry
from mistralrs_onnx.runtime.adapters import Adapter, Packed
from mistralrs_onnx.runtime.answers import Output
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.request import Usage
from mistralrs_onnx.runtime.sampling import SamplingParams

LONGEST = 100  # bytes of a conversation


class Parrot:
    """A model and its engine: says the last message again, in capitals, word by word, each a token."""

    name = "parrot"
    context_length = LONGEST

    def __init__(self) -> None:
        self.engine = self
        self.asked: list[list[dict[str, str]]] = []
        self.seeds: list[int | None] = []
        self.num_cancelled = 0
        self.adapters: AdapterRegistry | None = None
        self.mixed_adapters: tuple[str, ...] = ()
        self.adapter: Adapter | None = None
        self.defaults: dict[str, Any] = {}
        self.params: SamplingParams | None = None
        self.grammar: Any = None
        self.room = LONGEST  # words of an answer
        self.failure: RequestError | None = None  # instead of the end of each answer

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        self.asked.append([dict(message) for message in messages])
        if sum(len(message["content"]) for message in messages) > LONGEST:
            raise RequestError("the prompt is too long", code="context_length_exceeded")
        return list(messages[-1]["content"].encode())

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        sink: Callable[[Output], None],
        *,
        adapter: Adapter | None = None,
        grammar: Any = None,
    ) -> object:
        self.params, self.adapter, self.grammar = params, adapter, grammar
        self.seeds.append(params.seed)
        most = min(params.max_tokens or self.room, self.room)
        words = bytes(prompt_ids).decode().upper().split()[:most]
        is_cut = len(words) == most
        for number, word in enumerate(words, 1):
            sink(Output(f"{word} ", (1,), usage=Usage(len(prompt_ids), 2, number)))
        usage = Usage(len(prompt_ids), 2, len(words))
        sink(Output("", (), "length" if is_cut else "stop", error=self.failure, usage=usage))
        return object()

    def cancel(self, request: object) -> None:
        self.num_cancelled += 1


class StuckParrot(Parrot):
    """It never comes to an end."""

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        sink: Callable[[Output], None],
        *,
        adapter: Adapter | None = None,
        grammar: Any = None,
    ) -> object:
        sink(Output("WELL ... ", (1,), usage=Usage(len(prompt_ids), 0, 1)))
        return object()


def empty_adapter(name: str) -> Adapter:
    packed = Packed(np.zeros((1, 1, 2, 16), np.float32), (np.zeros((16, 2), np.float32),))
    return Adapter(name, name, 1, 1, {0: packed})


def adapted_parrot(*names: str) -> Parrot:
    parrot = Parrot()
    parrot.adapters = AdapterRegistry()
    for name in names:
        parrot.adapters.add(empty_adapter(name))
    return parrot
