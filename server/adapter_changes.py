"""Adapters loaded, unloaded and made active while the server runs; requests in flight keep those that they have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.errors import RequestError

from .gate import Gate
from .selection import HOW_TO_START, mixes_itself, without_adapters

logger = logging.getLogger(__name__)

MAX_LOADS = 16  # that wait or run


class AdapterChanges:
    """Loads run one after another on a thread of their own, so that no other request waits for them.

    Lives on the event loop's thread.
    """

    def __init__(self, gate: Gate, max_loads: int = MAX_LOADS) -> None:
        self._gate = gate
        self._max_loads = max_loads
        self._thread = ThreadPoolExecutor(1, "adapters")
        self._loads: set[Future[Adapter]] = set()

    async def load(self, name: str, path: str, *, replace: bool) -> Adapter:
        """Returns when requests can use it; is not begun when the caller left before. Raises RequestError."""
        model = self._gate.model()
        adapters = model.adapters
        if model.mixed_adapters:
            raise mixes_itself(model)
        if adapters is None:
            message = f"This server was started without adapters: {HOW_TO_START}."
            raise RequestError(message, status=403, code="loading_disabled", param="lora_path")
        if len(self._loads) >= self._max_loads:
            message = f"{len(self._loads)} adapters are being loaded already: try again when they are."
            raise RequestError(message, status=429, code="lora_load_busy")
        loading = self._thread.submit(adapters.load, name, path, replace=replace)
        self._loads.add(loading)
        loading.add_done_callback(self._loads.discard)
        adapter = await asyncio.wrap_future(loading)
        logger.info("loaded adapter %s, rank %d, %d bytes", name, adapter.rank, adapter.nbytes)
        return adapter

    async def unload(self, name: str) -> Adapter:
        """Raises RequestError 404."""
        model = self._gate.model()
        adapters = model.adapters
        if adapters is None:
            raise without_adapters(name, model)
        adapter = await asyncio.to_thread(adapters.unload, name)  # frees much memory
        logger.info("unloaded adapter %s", name)
        return adapter

    async def activate(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names that are active from now on. Raises RequestError 404, and then nothing has changed."""
        model = self._gate.model()
        adapters = model.adapters
        if adapters is None:
            if names:
                raise without_adapters(names[0], model)
            return ()
        await asyncio.to_thread(adapters.activate, names)  # combines them, which takes its time
        logger.info("active adapters: %s", ", ".join(names) or "none")
        return tuple(dict.fromkeys(names))

    async def finish(self) -> None:
        """Waits for the load that runs, which cannot be interrupted; those that wait are given up."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
