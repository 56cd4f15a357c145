from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from mistralrs_onnx.tools.benching import http_load
from mistralrs_onnx.tools.benching.http_client import Exchange, Target
from mistralrs_onnx.tools.benching.http_load import Load, Progress, arrivals, send

TARGET = Target("127.0.0.1", 1)


def test_arrivals_are_a_poisson_process_from_a_seed() -> None:
    times = arrivals(5001, 8.0, seed=0)
    gaps = np.diff(times)
    assert times[0] == 0
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 8, rel=0.05)  # as of an exponential distribution
    assert times == arrivals(5001, 8.0, seed=0) != arrivals(5001, 8.0, seed=1)


def test_without_a_rate_all_come_at_once() -> None:
    assert arrivals(3, math.inf, seed=0) == [0, 0, 0]


class Post:
    """Stands for a server: how many it has at once, and the requests of which it never lets go."""

    def __init__(self, stuck: int = -1) -> None:
        self.running, self.most, self.stuck = 0, 0, stuck

    async def __call__(self, target: Target, path: str, body: dict[str, int]) -> Exchange:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(1000 if body["n"] == self.stuck else 0.001)
        self.running -= 1
        return Exchange([(0.1, b"%d" % body["n"])])


@pytest.mark.parametrize(("bound", "most"), [(None, 9), (2, 2)])
def test_there_are_never_more_at_once_than_asked(bound: int | None, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    post, done = Post(), []
    monkeypatch.setattr(http_load, "post", post)
    progress = Progress()
    load = Load("/v1/completions", [{"n": n} for n in range(9)], most=bound)
    asyncio.run(send(TARGET, load, progress, lambda: done.append(1)))
    assert post.most == most
    assert len(done) == 9
    assert sorted(int(exchange.pieces[0][1]) for exchange in progress.exchanges) == list(range(9))
    assert progress.seconds > 0


def test_what_was_done_is_kept_when_it_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_load, "post", Post(stuck=2))
    progress = Progress()
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(send(TARGET, Load("", [{"n": n} for n in range(4)]), progress), 0.1))
    assert len(progress.exchanges) == 3
    assert progress.seconds > 0
