"""Our engine beside others in one run: who takes turns, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import click

from .measuring import Result, Timing, Workload
from .peers import Peer

Samples = Mapping[tuple[str, Workload], list[float]]


class Standing(NamedTuple):
    """Medians of tokens per second, of all requests; `theirs`: by name, None for what a peer cannot do."""

    workload: Workload
    ours: float
    theirs: dict[str, float | None]

    def ratio(self, name: str) -> float | None:
        rate = self.theirs[name]
        return None if not rate else self.ours / rate


class Contest(NamedTuple):
    """What we did, and how others did beside it."""

    results: list[Result]
    standings: list[Standing]


def compete(
    ours: Callable[[Workload], Timing],
    peers: Sequence[Peer],
    workloads: Sequence[Workload],
    repetitions: int,
    warmup: int = 1,
) -> Contest:
    """All take turns in each repetition, since other work on the machine disturbs whoever runs just then.

    A peer that fails is named with what it said, and the others go on.
    """
    for workload in workloads:
        for _ in range(warmup):
            ours(workload)
    timings: dict[Workload, list[Timing]] = {workload: [] for workload in workloads}
    samples: dict[tuple[str, Workload], list[float]] = {}
    left = list(peers)
    for i in range(repetitions):
        _say("ours", i, repetitions)
        for workload in workloads:
            timings[workload].append(ours(workload))
        left = [peer for peer in left if _takes_turn(peer, workloads, samples, i, repetitions)]
    results = [Result(workload, tuple(timings[workload])) for workload in workloads]
    return Contest(results, [_standing(result, [peer.name for peer in peers], samples) for result in results])


def _takes_turn(
    peer: Peer,
    workloads: Sequence[Workload],
    samples: dict[tuple[str, Workload], list[float]],
    index: int,
    repetitions: int,
) -> bool:
    """Whether it can go on."""
    _say(peer.name, index, repetitions)
    try:
        rates = peer.rates(workloads)
    except click.ClickException as error:
        click.echo(f"{peer.name} is left out from here: {error.message}", err=True)
        return False
    for workload, rate in rates.items():
        samples.setdefault((peer.name, workload), []).append(rate)
    return True


def _say(name: str, index: int, repetitions: int) -> None:
    click.echo(f"{name}, repetition {index + 1} of {repetitions} ...", err=True)


def _standing(result: Result, names: Sequence[str], samples: Samples) -> Standing:
    found = {name: samples.get((name, result.workload)) for name in names}
    theirs = {name: None if rates is None else median(rates) for name, rates in found.items()}
    return Standing(result.workload, median(timing.rate for timing in result.timings), theirs)
