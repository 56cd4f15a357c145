"""What holds on this machine, found out by running a few tokens: that logits are sane, and that they are invariant."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .core import Logits, Row, Runner
from .errors import PackageError

LENGTH = 37  # odd, and more than one tile of attention
NEEDED = LENGTH + 1  # tokens that a slot must hold for `is_invariant`
IDS = [i % 97 + 1 for i in range(LENGTH)]


def check_logits(runner: Runner) -> None:
    """Raises PackageError when the graph returns nothing but zeros or NaN, as it does when weights were not folded."""
    logits = runner.run([Row(0, 0, IDS[:1], 1)])
    runner.free(0)
    if not np.isfinite(logits).all() or not logits.any():
        raise PackageError(
            "the graph returns no sane logits on this machine: report it with `pip list` and the CPU type"
        )


def is_invariant(runner: Runner) -> bool:
    """Whether a prompt gives the same bits whole, in pieces, and beside other slots.

    Needs two slots, of `NEEDED` tokens; frees them.
    """
    whole = runner.run([Row(0, 0, IDS, 1)]).copy()
    alone = runner.run([Row(0, LENGTH, [1], 1)]).copy()
    in_pieces = _in_pieces(runner)
    behind = min(LENGTH, runner.capacity - LENGTH)
    beside = runner.run([Row(0, LENGTH, [1], 1), Row(1, behind, IDS, 1)])[:1]
    same = np.array_equal(whole, in_pieces) and np.array_equal(alone, beside)
    for slot in (0, 1):
        runner.free(slot)
    return same


class RowRunner(Runner, Protocol):
    """A runner that can show kernels rows in pairs."""

    row_multiple: int


def settle_rows(runner: RowRunner) -> None:
    """Has kernels see rows in pairs where this CPU computes a row alone in another way than several.

    Needs two slots; frees them.
    """
    if runner.row_multiple == 1:
        alone = runner.run([Row(0, 0, IDS[:1], 1)]).copy()
        beside = runner.run([Row(slot, 0, IDS[:1], 1) for slot in (0, 1)])[:1]
        if not np.array_equal(alone, beside):
            runner.row_multiple = 2
        for slot in (0, 1):
            runner.free(slot)


def _in_pieces(runner: Runner) -> Logits:
    runner.run([Row(1, 0, IDS[:1], 1)])
    runner.run([Row(1, 1, IDS[1:6], 1)])
    return runner.run([Row(1, 6, IDS[6:], 1)]).copy()
