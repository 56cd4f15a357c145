"""POST /re_isq: the weights quantized anew while the server runs; requests in flight keep the model that they have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mistralrs_onnx.runtime.errors import RequestError

from .gate import Gate
from .model import Model

logger = logging.getLogger(__name__)

Requantize = Callable[[str], Model]  # a type to a loaded model; takes its time, raises RequestError


class Requantizer:
    """Puts a model of another type in the place of the one that serves. Lives on the event loop's thread."""

    def __init__(self, gate: Gate, requantize: Requantize | None) -> None:
        self._gate = gate
        self._requantize = requantize
        self._swapping: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None

    async def swap(self, kind: str) -> None:
        """Returns when new requests get the new model. Goes on when the caller is cancelled. Raises RequestError."""
        self._gate.model()
        if self._requantize is None:
            message = "This server was started from a package: start it from a checkpoint to quantize it again."
            raise RequestError(message, code="unsupported", param="ggml_type")
        if self._swapping is not None and not self._swapping.done():
            message = "The model is being quantized already: wait until that is done."
            raise RequestError(message, status=409, code="requantizing")
        self._swapping = asyncio.create_task(self._swap(self._requantize, kind))
        await asyncio.shield(self._swapping)

    async def finish(self) -> None:
        """Waits for what has begun, which cannot be interrupted."""
        if self._swapping is not None:
            await asyncio.wait([self._swapping])

    async def _swap(self, requantize: Requantize, kind: str) -> None:
        try:
            await self._swap_in(requantize, kind)
        except Exception as error:  # perhaps nobody waits for the answer anymore
            logger.warning("quantizing to %.64r failed: %s", kind, error)
            raise
        logger.info("serving the model quantized to %.64r", kind)

    async def _swap_in(self, requantize: Requantize, kind: str) -> None:
        if self._retiring is not None:  # memory holds two models, not three
            await asyncio.wait([self._retiring])
            self._gate.model()
        model = await asyncio.to_thread(requantize, kind)
        try:
            self._gate.open(model)
        except RequestError:
            await asyncio.to_thread(model.close)
            raise
        self._retiring = asyncio.create_task(self._gate.retire())
