"""From the engine's thread to the event loop: outputs wait in an inbox until a handler reads them."""

from __future__ import annotations

import asyncio
from collections import deque

from mistralrs_onnx.runtime.engine import Output, Sink


class Inbox:
    """Outputs of the choices of one HTTP request that its handler has not read yet, each with its choice's index.

    It never makes anyone wait to put: what a slow client leaves here is at most the answer itself.
    """

    def __init__(self) -> None:
        self._outputs: list[tuple[int, Output]] = []
        self._reader: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    def put(self, index: int, output: Output) -> None:
        self._outputs.append((index, output))
        self._wake()

    async def get(self, timeout: float | None = None) -> list[tuple[int, Output]]:
        """All that came since the last call, at least one; none when `timeout` seconds passed."""
        if not self._outputs:
            await self._sleep(timeout)
        outputs, self._outputs = self._outputs, []
        return outputs

    def close(self) -> None:
        """After the last call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _sleep(self, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        if timeout is None:
            self.close()
        else:
            # A timer for every token would cost more than all else here: one rings, and looks how long there is left.
            self._deadline = loop.time() + timeout
            if self._timer is not None and self._timer.when() > self._deadline:
                self.close()
            if self._timer is None:
                self._timer = loop.call_at(self._deadline, self._ring, loop)
        await self._reader

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._deadline <= loop.time():
            self._wake()
        else:
            self._timer = loop.call_at(self._deadline, self._ring, loop)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Bridge:
    """Carries outputs over with one wake-up of the loop for all that the engine produced meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._outputs: deque[tuple[Inbox, int, Output]] = deque()
        self._is_scheduled = False

    def sink(self, inbox: Inbox, index: int) -> Sink:
        def put(output: Output) -> None:
            self._outputs.append((inbox, index, output))
            # Append before the check, and the loop clears the flag before it drains: nothing is left behind.
            if not self._is_scheduled:
                self._is_scheduled = True
                self._loop.call_soon_threadsafe(self._deliver)

        return put

    def _deliver(self) -> None:
        self._is_scheduled = False
        while self._outputs:
            inbox, index, output = self._outputs.popleft()
            inbox.put(index, output)
