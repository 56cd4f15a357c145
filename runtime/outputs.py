"""Outputs of one request as they come, for programs without asyncio."""

from __future__ import annotations

import queue
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from .adapters import Adapter
from .answers import Output, Sink
from .sampling import SamplingParams

if TYPE_CHECKING:
    from .grammar.compiler import Grammar

Handle = TypeVar("Handle")


class Engine(Protocol[Handle]):
    """Generates tokens on its own thread; `Handle` is what it knows a request by."""

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        sink: Sink,
        *,
        adapter: Adapter | None = None,
        grammar: Grammar | None = None,
    ) -> Handle: ...
    def cancel(self, request: Handle) -> None: ...


def outputs(
    engine: Engine[Handle],
    prompt_ids: Sequence[int],
    params: SamplingParams,
    adapter: Adapter | None = None,
    grammar: Grammar | None = None,
) -> Generator[Output, None, None]:
    """Until the last one; closing the iterator cancels. Raises RequestError."""
    arrived: queue.SimpleQueue[Output] = queue.SimpleQueue()
    request = engine.submit(prompt_ids, params, arrived.put, adapter=adapter, grammar=grammar)
    try:
        while True:
            output = arrived.get()
            if output.error is not None:
                raise output.error
            yield output
            if output.finish_reason is not None:
                return
    finally:
        engine.cancel(request)
