"""What long work tells the one who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """`stage`: what is being done. `done`, `total`: bytes that are through, and of all; zeros where nobody counts."""

    stage: str
    done: int
    total: int


Report = Callable[[Progress], None]


def quiet(progress: Progress) -> None:
    """Reports nothing."""
