"""From rows of slots to runs of a graph whose slots take equally many tokens in a run.

A row of several tokens is a run of its own. Those of one token make one run after those, over the narrowest window of
slots that has them; an idle slot in it writes where its own next token will.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs import contract

from .core import Row

Integers = NDArray[np.int64]


class Run(NamedTuple):
    """`rows`: in the order of their logits. `num_logits`: a run computes one at least, wanted or not."""

    slots: slice
    rows: tuple[int, ...]
    feeds: dict[str, NDArray[np.integer]]
    num_logits: int


def runs(rows: Sequence[Row], held: Integers, rope_rows: int) -> list[Run]:
    """`held`: tokens of each slot, none of which an idle slot may lose. `rope_rows`: where the rotary table's half for
    long sequences begins.
    """
    chunks = [_chunk(i, row, rope_rows) for i, row in enumerate(rows) if len(row.token_ids) > 1]
    singles = [(i, row) for i, row in enumerate(rows) if len(row.token_ids) == 1]
    return [*chunks, _decode(singles, held_after(held, rows), rope_rows)] if singles else chunks


def held_after(held: Integers, rows: Sequence[Row]) -> Integers:
    """Tokens of each slot when the rows are written."""
    after = held.copy()
    after[[row.slot for row in rows]] = [row.start + len(row.token_ids) for row in rows]
    return after


def order(made: Sequence[Run], rows: Sequence[Row]) -> Integers:
    """Of the logits of all rows, where those of the runs lie, one after the other."""
    counts = np.array([row.num_logits for row in rows])
    first = np.cumsum(counts) - counts
    places = [np.arange(first[i], first[i] + counts[i]) for run in made for i in run.rows]
    return np.concatenate(places)


def _chunk(index: int, row: Row, rope_rows: int) -> Run:
    count = len(row.token_ids)
    ids, start = np.array([row.token_ids], np.int64), np.array([row.start])
    positions = row.start + np.arange(count) + rope_rows * row.is_long
    wanted = np.arange(count - row.num_logits, count)
    return Run(slice(row.slot, row.slot + 1), (index,), _feeds(ids, start, positions, wanted), row.num_logits)


def _decode(singles: Sequence[tuple[int, Row]], held: Integers, rope_rows: int) -> Run:
    slots = np.array([row.slot for _, row in singles])
    first, last = int(slots.min()), int(slots.max())
    window, places = slice(first, last + 1), slots - first
    ids = np.zeros((last + 1 - first, 1), np.int64)
    starts, shifts = held[window].copy(), np.zeros(len(ids), np.int64)
    ids[places, 0] = [row.token_ids[0] for _, row in singles]
    starts[places] = [row.start for _, row in singles]
    shifts[places] = [rope_rows * row.is_long for _, row in singles]
    wanted = places[[row.num_logits > 0 for _, row in singles]]
    feeds = _feeds(ids, starts, starts + shifts, wanted)
    return Run(window, tuple(i for i, _ in singles), feeds, len(wanted))


def _feeds(ids: Integers, starts: Integers, positions: Integers, wanted: Integers) -> dict[str, NDArray[np.integer]]:
    ends = starts + ids.shape[1]
    return {
        contract.INPUT_IDS: ids,
        contract.SEQLENS_K: (ends - 1).astype(np.int32),
        contract.TOTAL_SEQUENCE_LENGTH: np.array(ends.max(), np.int32),
        contract.ROPE_INDEX: positions.astype(np.int64),
        contract.LOGIT_INDEX: wanted if len(wanted) else np.zeros(1, np.int64),
    }
