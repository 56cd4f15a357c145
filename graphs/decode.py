"""One token of a slot as attention rows: the query heads that share a key head, one below the other.

Row r holds the r-th query head of every group, so attention sees `kv_heads` heads of G rows instead of `heads` heads of
one row: keys are read once for a group, and no head shows a single row, whose kernel would sum in another order. An odd
G is filled with a repeated row. All rows stand at the token's own position. Row 0 writes the token's key and value; the
others write copies behind it, which a bias hides from this step and the next tokens overwrite.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from . import contract
from .attention import Attention, Rows
from .emit import Emit

HIDDEN = -30000.0  # added to a score, it leaves nothing of it; float16 can hold it


def group_size(spec: Attention) -> int:
    return spec.num_heads // spec.num_kv_heads


def num_rows(spec: Attention) -> int:
    """The group size, made even."""
    return group_size(spec) + group_size(spec) % 2


def grouped_heads(spec: Attention) -> Attention:
    """What the operator is told: a window counts from each row, but these stand at one position, so a bias keeps it."""
    return replace(spec, num_heads=spec.num_kv_heads, window=None)


def row_order(spec: Attention) -> NDArray[np.int64]:
    """Heads that the rows of a slot hold, (rows, 3 kv_heads): a query head of each group, then all keys, all values."""
    heads, kv_heads, group = spec.num_heads, spec.num_kv_heads, group_size(spec)
    row, first = np.minimum(np.arange(num_rows(spec)), group - 1)[:, None], np.arange(kv_heads)[None]
    keys = np.broadcast_to(np.arange(heads, heads + 2 * kv_heads), (num_rows(spec), 2 * kv_heads))
    return np.concatenate([first * group + row, keys], axis=1)


def query_order(spec: Attention) -> NDArray[np.int64]:
    """Place of each query head among the results of a slot, (heads,): row by row, key heads within a row."""
    kv_heads, group = spec.num_kv_heads, group_size(spec)
    return (np.arange(group)[None] * kv_heads + np.arange(kv_heads)[:, None]).reshape(-1)


class HeadPlaces:
    """Where heads go before attention and come from after it, worked out once a step for each shape of attention."""

    def __init__(self, emit: Emit, pad: ir.Value, unpad: ir.Value) -> None:
        self._emit = emit
        self._index = emit.input(contract.DECODE_INDEX, ir.DataType.INT64, ["decode_slots"])
        self._pad = pad
        self._unpad = unpad
        self._drawn: dict[tuple[int, int], tuple[ir.Value, ir.Value]] = {}

    def of(self, spec: Attention) -> tuple[ir.Value, ir.Value]:
        """Of the packed heads, those of each decode row, (slots, rows, 3 kv_heads); of the heads that come out of
        chunks and then of decodes, those of each token, (tokens, heads).
        """
        shape = spec.num_heads, spec.num_kv_heads
        if shape not in self._drawn:
            self._drawn[shape] = self._rows(spec), self._queries(spec)
        return self._drawn[shape]

    def _rows(self, spec: Attention) -> ir.Value:
        emit, per_token = self._emit, spec.num_heads + 2 * spec.num_kv_heads
        first = emit.op("Mul", emit.op("Unsqueeze", self._index, emit.ints(1, 2)), emit.ints(per_token))
        return emit.op("Add", first, emit.const(row_order(spec)[None]))

    def _queries(self, spec: Attention) -> ir.Value:
        emit, heads = self._emit, spec.num_heads
        place, num_chunked = emit.op("Unsqueeze", self._unpad, emit.ints(1)), emit.op("Size", self._pad)
        in_chunk = emit.op("Add", emit.op("Mul", place, emit.ints(heads)), emit.const(np.arange(heads)))
        slot = emit.op("Sub", place, num_chunked)
        first = emit.op("Mul", slot, emit.ints(num_rows(spec) * spec.num_kv_heads))
        behind = emit.op("Add", first, emit.op("Mul", num_chunked, emit.ints(heads)))
        in_decode = emit.op("Add", behind, emit.const(query_order(spec)))
        return emit.op("Where", emit.op("Less", place, num_chunked), in_chunk, in_decode)


class DecodeRows:
    """The inputs of slots that decode, and what attention needs to know of their rows, once for each group size."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._held = emit.input(contract.DECODE_HELD, ir.DataType.INT32, ["decode_slots"])
        self._active = emit.input(contract.DECODE_ACTIVE, ir.DataType.INT32, ["decode_slots"])
        self._even = emit.input(contract.DECODE_EVEN, ir.DataType.INT32, [])
        self._drawn: dict[tuple[int, int | None], Rows] = {}

    def of(self, spec: Attention) -> Rows:
        kind = group_size(spec), spec.window
        if kind not in self._drawn:
            self._drawn[kind] = self._draw(group_size(spec), num_rows(spec), spec.window)
        return self._drawn[kind]

    def _draw(self, group: int, rows: int, window: int | None) -> Rows:
        emit = self._emit
        filled = emit.op("Mul", self._even, emit.const(np.int32(rows - group)))
        shown = emit.op("Add", filled, emit.const(np.int32(group)))
        last = emit.op("Add", self._held, emit.op("Sub", shown, emit.const(np.int32(1))))
        total = emit.op("Add", emit.op("ReduceMax", self._held, keepdims=0), emit.const(np.int32(rows)))
        position = emit.op("Cast", emit.op("Unsqueeze", self._held, emit.ints(1)), to=ir.DataType.INT64)
        return Rows(
            seqlens_k=last,
            total=total,
            query_seqlens=emit.op("Mul", self._active, shown),
            position_ids=emit.op("Add", position, emit.const(np.zeros((1, rows), np.int64))),
            bias=self._hide(total, rows, window),
        )

    def _hide(self, total: ir.Value, rows: int, window: int | None) -> ir.Value:
        """Hides the copies behind the token, and what lies before its window."""
        emit = self._emit
        keys = emit.op("Range", emit.const(np.int32(0)), total, emit.const(np.int32(1)))
        position = emit.op("Unsqueeze", self._held, emit.ints(1, 2, 3))
        outside = emit.op("Greater", keys, position)  # (slots, 1, 1, total)
        if window is not None:
            before = emit.op("LessOrEqual", keys, emit.op("Sub", position, emit.const(np.int32(window))))
            outside = emit.op("Or", outside, before)
        hidden = emit.op("Mul", emit.op("Cast", outside, to=ir.DataType.FLOAT), emit.const(np.float32(HIDDEN)))
        return emit.op("Add", hidden, emit.const(np.zeros((1, 1, rows, 1), np.float32)))
