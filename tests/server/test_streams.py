"""Outputs cross from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from mistralrs_onnx.runtime.engine import Output, Usage
from mistralrs_onnx.server.streams import Bridge, Inbox


def output(text: str) -> Output:
    return Output(text, (1,), None, None, None, Usage(0, 0, 0))


def test_an_inbox_gives_all_that_came_in_order() -> None:
    async def main() -> list[list[tuple[int, str]]]:
        inbox = Inbox()
        inbox.put(0, output("a"))
        inbox.put(1, output("b"))
        first = await inbox.get()
        asyncio.get_running_loop().call_later(0.001, inbox.put, 0, output("c"))
        return [[(index, o.text) for index, o in outputs] for outputs in (first, await inbox.get())]

    assert asyncio.run(main()) == [[(0, "a"), (1, "b")], [(0, "c")]]


def test_an_inbox_gives_nothing_when_nothing_came_in_time() -> None:
    async def main() -> list[Any]:
        inbox = Inbox()
        return [*await inbox.get(0.001), *await inbox.get(0.001)]

    assert asyncio.run(main()) == []


def test_an_inbox_waits_its_time_after_each_call_and_rings_no_more_when_closed() -> None:
    async def main() -> tuple[float, int]:
        inbox, loop = Inbox(), asyncio.get_running_loop()
        loop.call_later(0.06, inbox.put, 0, output("a"))
        await inbox.get(0.1)
        start = loop.time()
        assert await inbox.get(0.1) == []  # the timer of the first call rings in between
        waited = loop.time() - start
        loop.call_later(0.01, inbox.put, 0, output("b"))
        assert await inbox.get(50)
        assert await inbox.get(0.01) == []  # though there is a timer for later
        loop.call_later(0.01, inbox.put, 0, output("c"))
        await inbox.get(0.02)
        loop.call_later(0.05, inbox.put, 0, output("d"))
        assert await inbox.get(), "the timer of the last call does not end one without a limit"
        await inbox.get(0.001)
        loop.call_later(0.01, inbox.put, 0, output("e"))
        await inbox.get(50)
        inbox.close()
        return waited, sum(not handle.cancelled() for handle in loop._scheduled)

    waited, num_timers = asyncio.run(main())
    assert waited >= 0.09  # clocks of loops are coarse
    assert num_timers == 0


def test_a_bridge_wakes_the_loop_once_for_a_whole_step() -> None:
    class Counting(asyncio.SelectorEventLoop):
        num_wakeups = 0

        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
            self.num_wakeups += 1
            return super().call_soon_threadsafe(*args, **kwargs)

    async def main() -> None:
        bridge = Bridge(loop)
        inboxes = [Inbox() for _ in range(16)]
        for inbox in inboxes:
            bridge.sink(inbox, 0)(output("x"))
        assert [len(await inbox.get()) for inbox in inboxes] == [1] * 16

    loop = Counting()
    loop.run_until_complete(main())
    loop.close()
    assert loop.num_wakeups == 1


def test_a_bridge_loses_nothing_between_threads() -> None:
    num_threads, num_outputs = 4, 2000

    async def main() -> list[int]:
        bridge = Bridge(asyncio.get_running_loop())
        inbox = Inbox()
        sinks = [bridge.sink(inbox, index) for index in range(num_threads)]
        threads = [threading.Thread(target=lambda s=s: [s(output("x")) for _ in range(num_outputs)]) for s in sinks]
        for thread in threads:
            thread.start()
        counts = [0] * num_threads
        while sum(counts) < num_threads * num_outputs:
            for index, _ in await inbox.get():
                counts[index] += 1
        return counts

    assert asyncio.run(asyncio.wait_for(main(), 20)) == [num_outputs] * num_threads
