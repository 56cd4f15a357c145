"""From rows of slots to the inputs of the serving graph.

Slots that take one token decode; the others read chunks. In chunks, attention sees an even number of rows per slot: an
odd count repeats its last row, whose key lands one past the end and is overwritten by the next token. One row alone
would take another kernel, which sums in another order. Graphs without a window for decodes read chunks of one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs import contract

from .adapters import Adapter
from .core import Row

Feeds = dict[str, NDArray[np.integer]]
Integers = NDArray[np.int64]


# Slots in the order of rows, which of two rotary tables each uses, and its adapter.
Decoding = tuple[tuple[int, bool, Adapter | None], ...]


class Step(NamedTuple):
    """`chunks`, `decodes`: the windows of slots that attention sees. `longest`: rows of the fullest slot afterwards."""

    chunks: slice
    decodes: slice
    feeds: Feeds
    num_logits: int  # without padding
    longest: int
    largest_id: int
    decoding: Decoding | None  # when each row takes one token and gives its logits


class _Packed(NamedTuple):
    """Rows as columns of numbers."""

    slots: Integers
    held: Integers  # tokens before the step
    counts: Integers  # new tokens
    starts: Integers  # of the row among the packed tokens


class Layout(NamedTuple):
    """What a graph wants: T and R in multiples of `multiple`, decodes in a window of their own when `grouped`.

    `rope_rows`: where the rotary table's half for long sequences begins.
    """

    multiple: int = 1
    grouped: bool = True
    rope_rows: int = 0


PLAIN = Layout()


def pack(rows: Sequence[Row], layout: Layout = PLAIN) -> Step:
    counts = np.array([len(row.token_ids) for row in rows])
    slots, held = np.array([row.slot for row in rows]), np.array([row.start for row in rows])
    packed = np.stack([slots, held, counts, np.cumsum(counts) - counts])
    is_single = (counts == 1) & layout.grouped
    chunks, chunk_feeds, chunk_place = _chunks(_Packed(*packed[:, ~is_single]))
    decodes, decode_feeds, decode_place = _decodes(_Packed(*packed[:, is_single]))

    ids = np.concatenate([np.asarray(row.token_ids, np.int64) for row in rows])
    first_place = np.empty(len(rows), np.int64)
    first_place[~is_single] = chunk_place
    first_place[is_single] = decode_place + chunk_feeds[contract.PAD_INDEX].size
    unpad_index = np.arange(len(ids)) + np.repeat(first_place - packed[3], counts)
    logit_index = _logit_index(packed[3] + counts, np.array([row.num_logits for row in rows]))
    shifts = np.array([layout.rope_rows * row.is_long for row in rows])
    rope_index = np.arange(len(ids)) + np.repeat(held + shifts - packed[3], counts)
    tokens = {contract.INPUT_IDS: ids, contract.UNPAD_INDEX: unpad_index, contract.ROPE_INDEX: rope_index}
    tokens[contract.LOGIT_INDEX] = logit_index
    feeds: Feeds = {name: _padded(each, layout.multiple) for name, each in tokens.items()}
    feeds |= chunk_feeds | (decode_feeds if layout.grouped else {})
    longest = int((held + counts).max())
    again = decoding(rows) if layout.grouped else None
    return Step(chunks, decodes, feeds, len(logit_index), longest, int(ids.max()), again)


def decoding(rows: Sequence[Row]) -> Decoding | None:
    """None unless the step is nothing but single tokens whose logits are wanted."""
    if any(len(row.token_ids) != 1 or row.num_logits != 1 for row in rows):
        return None
    return tuple((row.slot, row.is_long, row.adapter) for row in rows)


def decode_again(step: Step, rows: Sequence[Row]) -> Step:
    """The same slots decode the next token: the arrays of a step stay in place, only ids and positions change."""
    ids, held = [row.token_ids[0] for row in rows], np.array([row.start for row in rows])
    last = len(ids) - 1
    packed, places, were_held = (
        step.feeds[name] for name in (contract.INPUT_IDS, contract.ROPE_INDEX, contract.DECODE_HELD)
    )
    slots = [row.slot - step.decodes.start for row in rows]
    places[: len(ids)] += np.subtract(held, were_held[slots])
    were_held[slots] = held
    packed[: len(ids)] = ids
    packed[len(ids) :], places[len(ids) :] = ids[last], places[last]
    return step._replace(longest=int(held.max()) + 1, largest_id=max(ids))


def _chunks(rows: _Packed) -> tuple[slice, Feeds, Integers]:
    """The window, its inputs, and where each row begins among the window's places."""
    window, slots = _window(rows.slots)
    shown = rows.counts + (rows.counts & 1)
    width = int(shown.max(initial=1))
    pad_index = np.zeros((window.stop - window.start, width), np.int64)
    pad_index[slots] = rows.starts[:, None] + np.minimum(np.arange(width), rows.counts[:, None] - 1)
    feeds: Feeds = {
        contract.PAD_INDEX: pad_index,
        contract.QUERY_SEQLENS: _spread(slots, shown, window, np.int32),
        contract.SEQLENS_K: _spread(slots, rows.held + shown - 1, window, np.int32),
    }
    return window, feeds, slots * width


def _decodes(rows: _Packed) -> tuple[slice, Feeds, Integers]:
    window, slots = _window(rows.slots)
    feeds: Feeds = {
        contract.DECODE_INDEX: _spread(slots, rows.starts, window, np.int64),
        contract.DECODE_HELD: _spread(slots, rows.held, window, np.int32),
        contract.DECODE_ACTIVE: _spread(slots, rows.counts, window, np.int32),
    }
    return window, feeds, slots


def _window(slots: Integers) -> tuple[slice, Integers]:
    """The narrowest window of these slots (an idle slot, if there are none), and their places in it."""
    if not len(slots):
        return slice(0, 1), slots
    first = int(slots.min())
    return slice(first, int(slots.max()) + 1), slots - first


def _spread(slots: Integers, values: Integers, window: slice, dtype: type[np.integer]) -> NDArray[np.integer]:
    """Values at their slots' places, 0 elsewhere."""
    spread = np.zeros(window.stop - window.start, dtype)
    spread[slots] = values
    return spread


def _logit_index(ends: Integers, wanted: Integers) -> Integers:
    """Packed positions of the last `wanted` tokens of each row."""
    before = np.cumsum(wanted) - wanted
    return np.repeat(ends - wanted, wanted) + np.arange(wanted.sum()) - np.repeat(before, wanted)


def _padded(values: Integers, multiple: int) -> Integers:
    missing = -len(values) % multiple
    return np.concatenate([values, np.repeat(values[-1:], missing)]) if missing else values
