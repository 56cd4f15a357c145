"""Sends requests to a server as they would arrive, and waits for all answers."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from .http_client import Exchange, Target, post


@dataclass(frozen=True, slots=True)
class Load:
    """Requests, and when they are sent. `rate`: a second, inf for all at once. `most`: at once, None for no bound."""

    path: str
    bodies: Sequence[dict[str, Any]]
    rate: float = math.inf
    most: int | None = None
    seed: int = 0


@dataclass(slots=True)
class Progress:
    """What was measured so far."""

    begun: float = 0.0
    ended: float = 0.0
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds from the begin: the first one at once, then as a Poisson process."""
    rng = random.Random(seed)
    times = [0.0]
    for _ in range(count - 1):
        times.append(times[-1] + (0.0 if math.isinf(rate) else rng.expovariate(rate)))
    return times[:count]


async def send(target: Target, load: Load, progress: Progress, on_done: Callable[[], None] = lambda: None) -> None:
    """Fills `progress`, in the order in which requests end; also when it is cancelled."""
    bound = asyncio.Semaphore(load.most or max(1, len(load.bodies)))

    async def one(body: dict[str, Any]) -> None:
        async with bound:
            progress.exchanges.append(await post(target, load.path, body))
        on_done()

    progress.begun = perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for time, body in zip(arrivals(len(load.bodies), load.rate, load.seed), load.bodies, strict=True):
                await asyncio.sleep(max(0.0, progress.begun + time - perf_counter()))
                group.create_task(one(body))
    finally:
        progress.ended = perf_counter()
