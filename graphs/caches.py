"""The two forms of keys and values: packed rows over slots for serving, dense batches for other programs."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN

from . import contract
from .attention import Attention, Rope, Rows, rotary_tables
from .contract import KVDtype, KVGeometry
from .decode import DecodeRows, HeadPlaces, grouped_heads, num_rows
from .emit import Emit

DTYPES: dict[KVDtype, ir.DataType] = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}


class Axes(NamedTuple):
    """Names of the axes of keys and values, and what their tensors' names begin with."""

    batch: str
    past: str
    present: str
    prefix: str = ""


class Tables:
    """Rotary tables of a graph, each drawn once."""

    def __init__(self, emit: Emit, rows: int) -> None:
        self._emit = emit
        self._rows = rows
        self._drawn: dict[Rope, tuple[ir.Value, ir.Value]] = {}

    def of(self, rope: Rope) -> tuple[ir.Value, ir.Value]:
        if rope not in self._drawn:
            self._drawn[rope] = rotary_tables(self._emit, rope, self._rows)
        return self._drawn[rope]


class _KeyValues:
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

    def attend(self, spec: Attention, layer: int, qkv: ir.Value, rows: Rows) -> ir.Value:
        """qkv: (batch, rows, (heads + 2 kv_heads) · head) to (batch, rows, heads · head)."""
        past = self._past[2 * layer : 2 * layer + 2]
        cos, sin = (self._cast(table) for table in self._tables.of(spec.rope))
        bias = None if rows.bias is None else self._cast(rows.bias)
        unused = (None,) * 5  # sinks, scales, norms
        output, *present = self._emit.ops(
            "GroupQueryAttention",
            3,
            *(self._cast(qkv), None, None, *past, rows.seqlens_k, rows.total, cos, sin),
            *(rows.position_ids, bias, *unused, rows.query_seqlens),
            domain=CONTRIB_DOMAIN,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            scale=spec.scale,
            do_rotary=1,
        )
        self._present += present
        return output if self._dtype == ir.DataType.FLOAT else self._emit.op("Cast", output, to=ir.DataType.FLOAT)

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


class PackedCache:
    """Tokens of all slots in one row; only attention sees batches of slots, updated in place.

    A slot that decodes would show attention one row of one head at a time. Instead the query heads that share a key
    head are its rows, so that keys are read once for all of them: `decode.py` says how.
    """

    def __init__(self, emit: Emit, geometry: KVGeometry, dtype: KVDtype, rope_rows: int) -> None:
        self._emit = emit
        self.ids = emit.input(contract.INPUT_IDS, ir.DataType.INT64, ["tokens"])
        self._pad = emit.input(contract.PAD_INDEX, ir.DataType.INT64, ["chunk_slots", "rows"])
        self._rows = Rows(
            query_seqlens=emit.input(contract.QUERY_SEQLENS, ir.DataType.INT32, ["chunk_slots"]),
            seqlens_k=emit.input(contract.SEQLENS_K, ir.DataType.INT32, ["chunk_slots"]),
            total=emit.input(contract.TOTAL_SEQUENCE_LENGTH, ir.DataType.INT32, []),
        )
        unpad = emit.input(contract.UNPAD_INDEX, ir.DataType.INT64, ["tokens"])
        self._places = HeadPlaces(emit, self._pad, unpad)
        self._decode_rows = DecodeRows(emit)
        self._logit_index = emit.input(contract.LOGIT_INDEX, ir.DataType.INT64, ["logits"])
        tables = Tables(emit, rope_rows)
        self._chunks = _KeyValues(emit, geometry, dtype, Axes("chunk_slots", "capacity", "capacity"), tables)
        decoding = Axes("decode_slots", "capacity", "capacity", contract.DECODE_PREFIX)
        self._decodes = _KeyValues(emit, geometry, dtype, decoding, tables)

    def attend(self, spec: Attention, layer: int, qkv: ir.Value) -> ir.Value:
        emit, head, kv_heads = self._emit, spec.head_size, spec.num_kv_heads
        decode_places, token_places = self._places.of(spec)
        padded = emit.op("Gather", qkv, self._pad, axis=0)  # (slots, rows, qkv)
        apart = emit.op("Reshape", qkv, emit.ints(-1, head))
        grouped = emit.op("Gather", apart, decode_places, axis=0)  # (slots, rows, 3 kv_heads, head)
        grouped = emit.op("Reshape", grouped, emit.ints(0, num_rows(spec), 3 * kv_heads * head))
        chunks = self._chunks.attend(spec, layer, padded, self._rows)
        decodes = self._decodes.attend(grouped_heads(spec), layer, grouped, self._decode_rows.of(spec))
        both = [emit.op("Reshape", result, emit.ints(-1, head)) for result in (chunks, decodes)]
        heads = emit.op("Gather", emit.op("Concat", *both, axis=0), token_places, axis=0)  # (tokens, heads, head)
        return emit.op("Reshape", heads, emit.ints(0, spec.num_heads * head))

    def wanted(self, hidden: ir.Value) -> ir.Value:
        return self._emit.op("Gather", hidden, self._logit_index, axis=0)

    def finish(self, logits: ir.Value, vocab_size: int) -> None:
        self._emit.output(logits, contract.LOGITS, ir.DataType.FLOAT, ["logits", vocab_size])
        self._chunks.outputs()
        self._decodes.outputs()


class DenseCache:
    """The form that other programs feed: a batch of equal rows, an attention mask, keys and values that grow."""

    def __init__(self, emit: Emit, geometry: KVGeometry, rope_rows: int) -> None:
        self._emit = emit
        batch, rows, total = "batch_size", "sequence_length", "total_sequence_length"
        ids = emit.input(contract.INPUT_IDS, ir.DataType.INT64, [batch, rows])
        mask = emit.input(contract.ATTENTION_MASK, ir.DataType.INT64, [batch, total])
        position_ids = emit.input(contract.POSITION_IDS, ir.DataType.INT64, [batch, rows])
        axes = Axes(batch, "past_sequence_length", total)
        self._kv = _KeyValues(emit, geometry, "float32", axes, Tables(emit, rope_rows))
        self.ids = emit.op("Reshape", ids, emit.ints(-1))
        self._batch = emit.op("Concat", emit.op("Shape", ids), emit.ints(-1), axis=0)  # (batch, rows, -1)
        with emit.at("attention_mask"):
            held = emit.op("Sub", emit.op("ReduceSum", mask, emit.ints(1), keepdims=0), emit.ints(1))
            length = emit.op("Squeeze", emit.op("Shape", mask, start=1))
            self._rows = Rows(
                seqlens_k=emit.op("Cast", held, to=ir.DataType.INT32),
                total=emit.op("Cast", length, to=ir.DataType.INT32),
                position_ids=position_ids,
            )

    def attend(self, spec: Attention, layer: int, qkv: ir.Value) -> ir.Value:
        rows = self._emit.op("Reshape", qkv, self._batch)
        output = self._kv.attend(spec, layer, rows, self._rows)
        return self._emit.op("Reshape", output, self._emit.ints(-1, spec.num_heads * spec.head_size))

    def wanted(self, hidden: ir.Value) -> ir.Value:
        return hidden

    def finish(self, logits: ir.Value, vocab_size: int) -> None:
        batched = self._emit.op("Reshape", logits, self._batch)
        self._emit.output(batched, contract.LOGITS, ir.DataType.FLOAT, ["batch_size", "sequence_length", vocab_size])
        self._kv.outputs()
