"""A model in this process for programs with an event loop, which it never holds up."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Self

from mistralrs_onnx.runtime.engine import Output
from mistralrs_onnx.runtime.errors import RequestError

from .answering import Answering
from .conversations import Conversation
from .in_process import InProcess, Tools
from .jobs import Adapters, Job
from .model import Model
from .outputs import RequestOutput
from .prompts import Prompt
from .sampling_params import SamplingParams


class AsyncLLM(InProcess):
    """Answers prompts as they come. Use it as a context manager, or call `shutdown`. Any task of any loop may call.

    The arguments are those of `EngineArgs`; `report` is told of progress while the model is compiled. Raises
    CompileError and PackageError.
    """

    def _take(self, model: Model, *, owned: bool) -> None:
        super()._take(model, owned=owned)
        self._lock = threading.Lock()
        self._running: dict[str, Answering] = {}

    def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        adapter: Adapters = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs as they come, each with all that came before unless `output_kind` says otherwise.

        A task that is cancelled and an iterator that is closed end the request. `request_id`: for `abort`; None makes
        one up. Raises RequestError.
        """
        return self._outputs(partial(self._job, prompt, sampling_params, adapter), request_id)

    def chat(
        self,
        messages: Conversation,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
        adapter: Adapters = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """As `generate`, of a conversation. `tools`: as the chat template takes them."""

        def make() -> Job:
            text = self.apply_chat_template(
                messages,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                chat_template_kwargs=chat_template_kwargs,
            )
            return self._chat_job(text, sampling_params, adapter)

        return self._outputs(make, request_id)

    async def abort(self, request_id: str) -> None:
        """Its iterator ends with what it has, and finish reason "abort". One that has ended is left alone."""
        with self._lock:
            answering = self._running.get(request_id)
        if answering is not None:
            answering.cancel()

    def shutdown(self) -> None:
        """As `close`."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    async def _outputs(self, make: Callable[[], Job], request_id: str | None) -> AsyncGenerator[RequestOutput, None]:
        inbox = Inbox(asyncio.get_running_loop())
        answering = self._answering(await asyncio.to_thread(make), request_id)  # it takes its time
        self._enter(answering)
        try:
            answering.submit(inbox.put)
            while not answering.is_finished:
                for index, output in await inbox.get():
                    answering.add(index, output)
                found = answering.take()
                if found is not None:
                    yield found
        finally:
            answering.cancel()
            with self._lock:
                del self._running[answering.request_id]

    def _enter(self, answering: Answering) -> None:
        with self._lock:
            if answering.request_id in self._running:
                message = f"a request {answering.request_id!r:.128} is running already: give each an id of its own"
                raise RequestError(message, param="request_id")
            self._running[answering.request_id] = answering


class Inbox:
    """From the engine's thread to a task, with one wake-up of its loop for all that came meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._outputs: deque[tuple[int, Output]] = deque()
        self._wake = asyncio.Event()
        self._is_scheduled = False

    def put(self, index: int, output: Output) -> None:
        """The engine's thread calls it."""
        self._outputs.append((index, output))
        # Append before the check, and the reader clears the flag before it looks: nothing is left behind.
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon_threadsafe(self._wake.set)

    async def get(self) -> list[tuple[int, Output]]:
        """All that came since the last call, at least one."""
        while not self._outputs:
            await self._wake.wait()
            self._wake.clear()
            self._is_scheduled = False
        return [self._outputs.popleft() for _ in range(len(self._outputs))]
