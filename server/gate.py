"""Who may come in: nobody before the model is loaded, nobody new while the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.stats import EngineStats

from .model import Model


class Room:
    """A model, and how many requests are with it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.empty = asyncio.Event()
        self.empty.set()
        self._num_inside = 0

    @contextmanager
    def enter(self) -> Iterator[Model]:
        self._num_inside += 1
        self.empty.clear()
        try:
            yield self.model
        finally:
            self._num_inside -= 1
            if self._num_inside == 0:
                self.empty.set()


class Gate:
    """Lets requests in while a model is there: each stays with the model that it met. Lives on the loop's thread."""

    def __init__(self) -> None:
        self._rooms: list[Room] = []  # of models that are not closed; new requests enter the last
        self._closed: dict[str, EngineStats] = {}  # by name, what those counted that are closed
        self._draining = False

    def open(self, model: Model) -> None:
        """New requests get this model. Raises RequestError 503 once the server drains."""
        self._check_takes_requests()
        self._rooms.append(Room(model))

    def drain(self) -> None:
        self._draining = True

    async def wait_empty(self, timeout: float) -> bool:
        """Whether everyone left within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                for room in list(self._rooms):
                    await room.empty.wait()
        except TimeoutError:
            return False
        return True

    async def retire(self) -> None:
        """Closes all models but the newest, each when its last request has left."""
        for room in self._rooms[:-1]:
            await room.empty.wait()
            await asyncio.to_thread(room.model.close)
            self._rooms.remove(room)
            _add(self._closed, room.model.name, room.model.engine.stats().counted())

    async def close(self) -> None:
        """Closes the models; who is still inside gets an error."""
        for room in list(self._rooms):
            await asyncio.to_thread(room.model.close)

    def model(self) -> Model:
        """Raises RequestError 503 while there is none to use."""
        return self._room().model

    def stats(self) -> dict[str, EngineStats]:
        """Of the engines of all models by name, since the start: those count on that were replaced."""
        found = dict(self._closed)
        for room in self._rooms:
            _add(found, room.model.name, room.model.engine.stats())
        return found

    @property
    def newest(self) -> Model | None:
        """The one that serves, or did before the server drained."""
        return self._rooms[-1].model if self._rooms else None

    @contextmanager
    def enter(self) -> Iterator[Model]:
        with self._room().enter() as model:
            yield model

    def _room(self) -> Room:
        self._check_takes_requests()
        if not self._rooms:
            raise RequestError("The model is still loading: try again soon.", status=503, code="loading")
        return self._rooms[-1]

    def _check_takes_requests(self) -> None:
        if self._draining:
            raise RequestError("The server is shutting down: try another one.", status=503, code="draining")


def _add(found: dict[str, EngineStats], name: str, stats: EngineStats) -> None:
    found[name] = found[name] + stats if name in found else stats
