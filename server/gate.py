"""Who may come in: nobody before the model is loaded, nobody new while the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from mistralrs_onnx.runtime.errors import RequestError

from .model import Model


class Gate:
    """Lets requests in while a model is there, and counts those inside. Lives on the event loop's thread."""

    def __init__(self) -> None:
        self.num_inside = 0
        self._model: Model | None = None
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def open(self, model: Model) -> None:
        self._model = model

    def drain(self) -> None:
        self._draining = True

    async def wait_empty(self, timeout: float) -> bool:
        """Whether everyone left within `timeout` seconds."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def model(self) -> Model:
        """Raises RequestError 503 while there is none to use."""
        if self._draining:
            raise RequestError("The server is shutting down: try another one.", status=503, code="draining")
        if self._model is None:
            raise RequestError("The model is still loading: try again soon.", status=503, code="loading")
        return self._model

    @contextmanager
    def enter(self) -> Iterator[Model]:
        model = self.model()
        self.num_inside += 1
        self._empty.clear()
        try:
            yield model
        finally:
            self.num_inside -= 1
            if self.num_inside == 0:
                self._empty.set()
