"""How often values of which size came up, in buckets as Prometheus has them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

Bounds = tuple[float, ...]

# Seconds, as vLLM has them, so that panels drawn for it show the same, and smaller ones, for smaller models.
FIRST_TOKEN: Bounds = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40)
FIRST_TOKEN = (*FIRST_TOKEN, 80, 160, 640, 2560)
NEXT_TOKEN: Bounds = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
NEXT_TOKEN = (*NEXT_TOKEN, 7.5, 10, 20, 40, 80)
REQUEST: Bounds = (
    0.01,
    0.03,
    0.1,
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
    960,
    1920,
    7680,
)
TOKENS: Bounds = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))
STEP_TOKENS: Bounds = tuple(1 << power for power in range(13))


@dataclass(slots=True)
class Histogram:
    """`bounds`: the largest value of each bucket, in order; one more bucket takes what is larger than all of them.

    One thread observes; what others read meanwhile may lack the last value in one of `counts` and `total`.
    """

    bounds: Bounds
    counts: list[int] = field(default_factory=list)
    total: float = 0.0  # of all values

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    @property
    def num_observed(self) -> int:
        return sum(self.counts)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def __add__(self, other: Histogram) -> Histogram:
        counts = [own + added for own, added in zip(self.counts, other.counts, strict=True)]
        return Histogram(self.bounds, counts, self.total + other.total)
