"""The two forms of keys and values: packed rows over slots for serving, dense batches for other programs."""

from __future__ import annotations

import onnx_ir as ir

from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN

from . import contract
from .attention import Attention, Rope, rotary_tables
from .contract import KVDtype, KVGeometry
from .emit import Emit

DTYPES: dict[KVDtype, ir.DataType] = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}


class _KeyValues:
    """Past inputs, present outputs, and the operator between them."""

    def __init__(self, emit: Emit, geometry: KVGeometry, dtype: KVDtype, batch: str, past: str, present: str) -> None:
        self._emit = emit
        self._dtype = DTYPES[dtype]
        self._geometry = geometry
        self._batch = batch
        self._present_length = present
        names = contract.cache_names(geometry.num_layers)
        self._past = [emit.input(name, self._dtype, self._shape(past)) for name, _ in names]
        self._present: list[ir.Value] = []
        self._tables: dict[Rope, tuple[ir.Value, ir.Value]] = {}

    def attend(
        self,
        spec: Attention,
        layer: int,
        qkv: ir.Value,  # (batch, rows, (heads + 2 kv_heads) · head)
        lengths: tuple[ir.Value, ir.Value],  # seqlens_k, total_sequence_length
        rope_rows: int,
        position_ids: ir.Value | None = None,
        query_seqlens: ir.Value | None = None,
    ) -> ir.Value:
        past = self._past[2 * layer : 2 * layer + 2]
        unused = (None,) * 6  # attention bias, sinks, scales, norms
        output, *present = self._emit.ops(
            "GroupQueryAttention",
            3,
            *(self._cast(qkv), None, None, *past, *lengths, *self._rotary(spec.rope, rope_rows)),
            *(position_ids, *unused, query_seqlens),
            domain=CONTRIB_DOMAIN,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            scale=spec.scale,
            do_rotary=1,
        )
        self._present += present
        return output if self._dtype == ir.DataType.FLOAT else self._emit.op("Cast", output, to=ir.DataType.FLOAT)

    def outputs(self) -> None:
        for value, (_, name) in zip(self._present, contract.cache_names(self._geometry.num_layers), strict=True):
            self._emit.output(value, name, self._dtype, self._shape(self._present_length))

    def _shape(self, length: str) -> list[int | str]:
        return [self._batch, self._geometry.num_heads, length, self._geometry.head_size]

    def _cast(self, value: ir.Value) -> ir.Value:
        return value if self._dtype == ir.DataType.FLOAT else self._emit.op("Cast", value, to=self._dtype)

    def _rotary(self, rope: Rope, rows: int) -> tuple[ir.Value, ir.Value]:
        if rope not in self._tables:
            cos, sin = rotary_tables(self._emit, rope, rows)
            self._tables[rope] = self._cast(cos), self._cast(sin)
        return self._tables[rope]


class PackedCache:
    """Tokens of all slots in one row; only attention sees a batch of slots, updated in place."""

    def __init__(self, emit: Emit, geometry: KVGeometry, dtype: KVDtype, rope_rows: int) -> None:
        self._emit = emit
        self._rope_rows = rope_rows
        self.ids = emit.input(contract.INPUT_IDS, ir.DataType.INT64, ["tokens"])
        self._pad = emit.input(contract.PAD_INDEX, ir.DataType.INT64, ["slots", "rows"])
        self._unpad = emit.input(contract.UNPAD_INDEX, ir.DataType.INT64, ["tokens"])
        self._query_seqlens = emit.input(contract.QUERY_SEQLENS, ir.DataType.INT32, ["slots"])
        self._seqlens_k = emit.input(contract.SEQLENS_K, ir.DataType.INT32, ["slots"])
        self._total = emit.input(contract.TOTAL_SEQUENCE_LENGTH, ir.DataType.INT32, [])
        self._logit_index = emit.input(contract.LOGIT_INDEX, ir.DataType.INT64, ["logits"])
        self._kv = _KeyValues(emit, geometry, dtype, "slots", "capacity", "capacity")

    def attend(self, spec: Attention, layer: int, qkv: ir.Value) -> ir.Value:
        emit = self._emit
        rows = emit.op("Gather", qkv, self._pad, axis=0)  # (slots, rows, qkv)
        lengths = self._seqlens_k, self._total
        output = self._kv.attend(spec, layer, rows, lengths, self._rope_rows, query_seqlens=self._query_seqlens)
        flat = emit.op("Reshape", output, emit.ints(-1, spec.num_heads * spec.head_size))
        return emit.op("Gather", flat, self._unpad, axis=0)  # (tokens, heads · head)

    def wanted(self, hidden: ir.Value) -> ir.Value:
        return self._emit.op("Gather", hidden, self._logit_index, axis=0)

    def finish(self, logits: ir.Value, vocab_size: int) -> None:
        self._emit.output(logits, contract.LOGITS, ir.DataType.FLOAT, ["logits", vocab_size])
        self._kv.outputs()


class DenseCache:
    """The form that other programs feed: a batch of equal rows, an attention mask, keys and values that grow."""

    def __init__(self, emit: Emit, geometry: KVGeometry, rope_rows: int) -> None:
        self._emit = emit
        self._rope_rows = rope_rows
        batch, rows, total = "batch_size", "sequence_length", "total_sequence_length"
        ids = emit.input(contract.INPUT_IDS, ir.DataType.INT64, [batch, rows])
        mask = emit.input(contract.ATTENTION_MASK, ir.DataType.INT64, [batch, total])
        self._position_ids = emit.input(contract.POSITION_IDS, ir.DataType.INT64, [batch, rows])
        self._kv = _KeyValues(emit, geometry, "float32", batch, "past_sequence_length", total)
        self.ids = emit.op("Reshape", ids, emit.ints(-1))
        self._batch = emit.op("Concat", emit.op("Shape", ids), emit.ints(-1), axis=0)  # (batch, rows, -1)
        with emit.at("attention_mask"):
            held = emit.op("Sub", emit.op("ReduceSum", mask, emit.ints(1), keepdims=0), emit.ints(1))
            length = emit.op("Squeeze", emit.op("Shape", mask, start=1))
            self._lengths = (
                emit.op("Cast", held, to=ir.DataType.INT32),
                emit.op("Cast", length, to=ir.DataType.INT32),
            )

    def attend(self, spec: Attention, layer: int, qkv: ir.Value) -> ir.Value:
        rows = self._emit.op("Reshape", qkv, self._batch)
        output = self._kv.attend(spec, layer, rows, self._lengths, self._rope_rows, position_ids=self._position_ids)
        return self._emit.op("Reshape", output, self._emit.ints(-1, spec.num_heads * spec.head_size))

    def wanted(self, hidden: ir.Value) -> ir.Value:
        return hidden

    def finish(self, logits: ir.Value, vocab_size: int) -> None:
        batched = self._emit.op("Reshape", logits, self._batch)
        self._emit.output(batched, contract.LOGITS, ir.DataType.FLOAT, ["batch_size", "sequence_length", vocab_size])
        self._kv.outputs()
