"""The two forms of keys and values: packed rows over slots for serving, dense batches for other programs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN

from . import contract
from .attention import Attention, Rows
from .contract import KVDtype, KVGeometry
from .decode import DecodeRows, HeadPlaces, grouped_heads, num_rows
from .emit import Emit
from .rotary import LongRope, Rope, Tables

DTYPES: dict[KVDtype, ir.DataType] = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}


class Axes(NamedTuple):
    """Names of the axes of keys and values, and what their tensors' names begin with."""

    batch: str
    past: str
    present: str
    prefix: str = ""


class KeyValues:
    """Past inputs, present outputs, and the operator between them."""

    def __init__(self, emit: Emit, geometry: KVGeometry, dtype: KVDtype, axes: Axes, tables: Tables) -> None:
        self._emit = emit
        self._dtype = DTYPES[dtype]
        self._geometry = geometry
        self._axes = axes
        self._names = contract.cache_names(geometry.num_layers, axes.prefix)
        self._past = [emit.input(name, self._dtype, self._shape(axes.past)) for name, _ in self._names]
        self._present: list[ir.Value] = []
        self._tables = tables
        self._casts: dict[ir.Value, ir.Value] = {}

    def attend(self, spec: Attention, layer: int, qkv: ir.Value, rows: Rows, sinks: ir.Value | None) -> ir.Value:
        """qkv: (batch, rows, (heads + 2 kv_heads) · head) to (batch, rows, heads · head)."""
        past = self._past[2 * layer : 2 * layer + 2]
        is_half = self._emit.drawing.half  # then it is all float16 here, the cache too
        query = qkv if is_half else self._cast(qkv)
        bias, sinks = (None if value is None else self._cast(value) for value in (rows.bias, sinks))
        scales_and_norms = (None,) * 4
        inputs = [query, None, None, *past, rows.seqlens_k, rows.total, *self._rotary(spec, rows)]
        inputs += [bias, sinks, *scales_and_norms, rows.query_seqlens]
        output, *present = self._emit.ops(
            "GroupQueryAttention",
            3,
            *_trimmed(inputs),
            domain=CONTRIB_DOMAIN,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            scale=spec.scale,
            do_rotary=int(spec.turns_inside),
            local_window_size=spec.window or -1,
            softcap=spec.softcap or 0.0,
        )
        self._present += present
        is_same = is_half or self._dtype == ir.DataType.FLOAT
        return output if is_same else self._emit.op("Cast", output, to=ir.DataType.FLOAT)

    def _rotary(self, spec: Attention, rows: Rows) -> tuple[ir.Value | None, ...]:
        """Cosines, sines, positions: what the operator wants when it turns heads itself."""
        if not spec.turns_inside or spec.rope is None:
            return None, None, None
        return (*(self._cast(table) for table in self._tables.of(spec.rope)), rows.position_ids)

    def outputs(self) -> None:
        for value, (_, name) in zip(self._present, self._names, strict=True):
            self._emit.output(value, name, self._dtype, self._shape(self._axes.present))

    def _shape(self, length: str) -> list[int | str]:
        return [self._axes.batch, self._geometry.num_heads, length, self._geometry.head_size]

    def _cast(self, value: ir.Value) -> ir.Value:
        """To the type of the cache, each value once."""
        if self._dtype == ir.DataType.FLOAT:
            return value
        if value not in self._casts:
            self._casts[value] = self._emit.op("Cast", value, to=self._dtype)
        return self._casts[value]


def _trimmed(inputs: list[ir.Value | None]) -> list[ir.Value | None]:
    """Without what is missing at their end, which older hosts do not know."""
    while inputs and inputs[-1] is None:
        inputs.pop()
    return inputs


class PackedCache:
    """Tokens of all slots in one row; only attention sees batches of slots, updated in place.

    A slot that decodes would show attention one row of one head at a time. Instead the query heads that share a key
    head are its rows, so that keys are read once for all of them: `decode.py` says how. Attention with sinks, which
    belong to query heads, decodes as chunks of one token do (`grouped` is False).
    """

    def __init__(self, emit: Emit, geometry: KVGeometry, dtype: KVDtype, rope_rows: int, *, grouped: bool) -> None:
        self._emit = emit
        self.ids = emit.input(contract.INPUT_IDS, ir.DataType.INT64, ["tokens"])
        self._rope_index = emit.input(contract.ROPE_INDEX, ir.DataType.INT64, ["tokens"])
        self._rope_row: ir.Value | None = None
        self._pad = emit.input(contract.PAD_INDEX, ir.DataType.INT64, ["chunk_slots", "rows"])
        self._rows = Rows(
            query_seqlens=emit.input(contract.QUERY_SEQLENS, ir.DataType.INT32, ["chunk_slots"]),
            seqlens_k=emit.input(contract.SEQLENS_K, ir.DataType.INT32, ["chunk_slots"]),
            total=emit.input(contract.TOTAL_SEQUENCE_LENGTH, ir.DataType.INT32, []),
        )
        self._unpad = emit.input(contract.UNPAD_INDEX, ir.DataType.INT64, ["tokens"])
        self._tables = Tables(emit, rope_rows)
        self._grouped = _Grouped(emit, geometry, dtype, self._tables, self._pad, self._unpad) if grouped else None
        self._logit_index = emit.input(contract.LOGIT_INDEX, ir.DataType.INT64, ["logits"])
        self._chunks = KeyValues(emit, geometry, dtype, Axes("chunk_slots", "capacity", "capacity"), self._tables)

    def tables(self, rope: Rope | LongRope) -> tuple[ir.Value, ir.Value]:
        return self._tables.of(rope)

    def positions(self, rope: Rope | LongRope) -> ir.Value:
        """Where there are two tables, who feeds the graph chooses one for each slot."""
        if self._rope_row is None:
            self._rope_row = self._emit.op("Unsqueeze", self._rope_index, self._emit.ints(0))
        return self._rope_row

    def attend(self, spec: Attention, layer: int, qkv: ir.Value, sinks: ir.Value | None) -> ir.Value:
        emit, head = self._emit, spec.cached_size
        padded = emit.op("Gather", qkv, self._pad, axis=0)  # (slots, rows, qkv)
        chunks = self._chunks.attend(spec, layer, padded, self._rows, sinks)
        if self._grouped is not None:
            return self._grouped.attend(spec, layer, qkv, chunks)
        rows = emit.op("Reshape", chunks, emit.ints(-1, spec.num_heads * head))
        return emit.op("Gather", rows, self._unpad, axis=0)

    def wanted(self, hidden: ir.Value) -> ir.Value:
        return self._emit.op("Gather", hidden, self._logit_index, axis=0)

    def finish(self, logits: ir.Value, vocab_size: int) -> None:
        self._emit.output(logits, contract.LOGITS, ir.DataType.FLOAT, ["logits", vocab_size])
        self._chunks.outputs()
        if self._grouped is not None:
            self._grouped.key_values.outputs()


class _Grouped:
    """The window of slots that decode, the query heads of a group as their rows."""

    def __init__(
        self, emit: Emit, geometry: KVGeometry, dtype: KVDtype, tables: Tables, pad: ir.Value, unpad: ir.Value
    ) -> None:
        self._emit = emit
        self._places = HeadPlaces(emit, pad, unpad)
        self._rows = DecodeRows(emit)
        axes = Axes("decode_slots", "capacity", "capacity", contract.DECODE_PREFIX)
        self.key_values = KeyValues(emit, geometry, dtype, axes, tables)

    def attend(self, spec: Attention, layer: int, qkv: ir.Value, chunks: ir.Value) -> ir.Value:
        """Heads of all packed tokens, those of `chunks` among them."""
        emit, head, kv_heads = self._emit, spec.cached_size, spec.num_kv_heads
        decode_places, token_places = self._places.of(spec)
        apart = emit.op("Reshape", qkv, emit.ints(-1, head))
        grouped = emit.op("Gather", apart, decode_places, axis=0)  # (slots, rows, 3 kv_heads, head)
        grouped = emit.op("Reshape", grouped, emit.ints(0, num_rows(spec), 3 * kv_heads * head))
        decodes = self.key_values.attend(grouped_heads(spec), layer, grouped, self._rows.of(spec), None)
        both = [emit.op("Reshape", result, emit.ints(-1, head)) for result in (chunks, decodes)]
        heads = emit.op("Gather", emit.op("Concat", *both, axis=0), token_places, axis=0)  # (tokens, heads, head)
        return emit.op("Reshape", heads, emit.ints(0, spec.num_heads * head))


class DenseCache:
    """The form that other programs feed: a batch of equal rows, an attention mask, keys and values that grow."""

    def __init__(self, emit: Emit, geometry: KVGeometry, rope_rows: int) -> None:
        self._emit = emit
        batch, rows, total = "batch_size", "sequence_length", "total_sequence_length"
        ids = emit.input(contract.INPUT_IDS, ir.DataType.INT64, [batch, rows])
        mask = emit.input(contract.ATTENTION_MASK, ir.DataType.INT64, [batch, total])
        self._position_ids = emit.input(contract.POSITION_IDS, ir.DataType.INT64, [batch, rows])
        axes = Axes(batch, "past_sequence_length", total)
        self._tables = Tables(emit, rope_rows)
        self._kv = KeyValues(emit, geometry, "float32", axes, self._tables)
        self._rope_rows: dict[int | None, ir.Value] = {}
        self.ids = emit.op("Reshape", ids, emit.ints(-1))
        self._batch = emit.op("Concat", emit.op("Shape", ids), emit.ints(-1), axis=0)  # (batch, rows, -1)
        with emit.at("attention_mask"):
            held = emit.op("Sub", emit.op("ReduceSum", mask, emit.ints(1), keepdims=0), emit.ints(1))
            self._length = emit.op("Squeeze", emit.op("Shape", mask, start=1))
            self._rows = Rows(
                seqlens_k=emit.op("Cast", held, to=ir.DataType.INT32),
                total=emit.op("Cast", self._length, to=ir.DataType.INT32),
                position_ids=self._position_ids,
            )

    def tables(self, rope: Rope | LongRope) -> tuple[ir.Value, ir.Value]:
        return self._tables.of(rope)

    def positions(self, rope: Rope | LongRope) -> ir.Value:
        """Where there are two tables, the length of the whole sequence chooses."""
        switch = rope.original_length if isinstance(rope, LongRope) else None
        if switch not in self._rope_rows:
            self._rope_rows[switch] = self._draw_positions(switch)
        return self._rope_rows[switch]

    def _draw_positions(self, switch: int | None) -> ir.Value:
        emit = self._emit
        row = emit.op("Reshape", self._position_ids, emit.ints(1, -1))
        if switch is None:
            return row
        is_long = emit.op("Greater", self._length, emit.const(np.int64(switch)))
        return emit.op(
            "Add", row, emit.op("Mul", emit.op("Cast", is_long, to=ir.DataType.INT64), emit.ints(self._tables.rows))
        )

    def attend(self, spec: Attention, layer: int, qkv: ir.Value, sinks: ir.Value | None) -> ir.Value:
        rows = self._emit.op("Reshape", qkv, self._batch)
        output = self._kv.attend(spec, layer, rows, self._rows, sinks)
        return self._emit.op("Reshape", output, self._emit.ints(-1, spec.num_heads * spec.cached_size))

    def wanted(self, hidden: ir.Value) -> ir.Value:
        return hidden

    def finish(self, logits: ir.Value, vocab_size: int) -> None:
        batched = self._emit.op("Reshape", logits, self._batch)
        self._emit.output(batched, contract.LOGITS, ir.DataType.FLOAT, ["batch_size", "sequence_length", vocab_size])
        self._kv.outputs()
