"""From rows of slots to the inputs of the serving graph.

Attention sees an even number of rows per slot: an odd count repeats its last row, whose key lands one past the end
and is overwritten by the next token. One row alone would take another kernel, which sums in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs import contract

from .core import Row


class Step(NamedTuple):
    """`window`: the slots that the graph sees. `longest`: rows of the fullest slot after the step."""

    window: slice
    feeds: dict[str, NDArray[np.generic]]
    num_logits: int  # without padding
    longest: int
    largest_id: int


def pack(rows: Sequence[Row], *, even_singles: bool, multiple: int = 1) -> Step:
    """`even_singles`: repeat the rows of a step of single rows, too. T and R become multiples of `multiple`."""
    counts = np.array([len(row.token_ids) for row in rows])
    slots = np.array([row.slot for row in rows])
    repeats = even_singles or counts.max() > 1
    shown = counts + (counts & 1) * repeats
    first, width = int(slots.min()), int(shown.max())
    num_slots = int(slots.max()) - first + 1

    starts = np.cumsum(counts) - counts  # of each row in the packed tokens
    within = np.arange(width)
    pad_index = np.zeros((num_slots, width), np.int64)
    pad_index[slots - first] = starts[:, None] + np.minimum(within, counts[:, None] - 1)
    query_seqlens = np.zeros(num_slots, np.int32)
    query_seqlens[slots - first] = shown
    seqlens_k = np.zeros(num_slots, np.int32)
    held = np.array([row.start for row in rows]) + shown
    seqlens_k[slots - first] = held - 1

    ids = np.concatenate([np.asarray(row.token_ids, np.int64) for row in rows])
    position = np.arange(len(ids)) - np.repeat(starts, counts)
    unpad_index = np.repeat((slots - first) * width, counts) + position
    wanted = np.array([row.num_logits for row in rows])
    logit_index = _logit_index(starts + counts, wanted)
    return Step(
        window=slice(first, first + num_slots),
        feeds={
            contract.INPUT_IDS: _padded(ids, multiple),
            contract.PAD_INDEX: pad_index,
            contract.UNPAD_INDEX: _padded(unpad_index, multiple),
            contract.QUERY_SEQLENS: query_seqlens,
            contract.SEQLENS_K: seqlens_k,
            contract.LOGIT_INDEX: _padded(logit_index, multiple),
        },
        num_logits=len(logit_index),
        longest=int(held.max()),
        largest_id=int(ids.max()),
    )


def _logit_index(ends: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Packed positions of the last `wanted` tokens of each row."""
    before = np.cumsum(wanted) - wanted
    return np.repeat(ends - wanted, wanted) + np.arange(wanted.sum()) - np.repeat(before, wanted)


def _padded(values: NDArray[np.int64], multiple: int) -> NDArray[np.int64]:
    missing = -len(values) % multiple
    return np.concatenate([values, np.repeat(values[-1:], missing)]) if missing else values
