"""Keys and values where all slots of a batch take equally many tokens, which attention computes on every device.

A batch is a window of slots that take one token each, or one slot that takes a chunk. An idle slot of a window writes
where its next token will.
"""

from __future__ import annotations

import onnx_ir as ir

from mistralrs_onnx.ops.functions import OPSET

from . import contract
from .attention import Attention, Rows
from .caches import Axes, KeyValues
from .contract import KVDtype, KVGeometry
from .emit import IR_VERSION, Emit
from .rotary import LongRope, Rope, Tables


class UniformCache:
    """The form that is served where there is no attention over slots of unequal lengths.

    Who feeds it says which row of the rotary table each token has, for heads that attention does not turn.
    """

    def __init__(self, emit: Emit, geometry: KVGeometry, dtype: KVDtype, rope_rows: int) -> None:
        self._emit = emit
        ids = emit.input(contract.INPUT_IDS, ir.DataType.INT64, ["slots", "rows"])
        self._rows = Rows(
            seqlens_k=emit.input(contract.SEQLENS_K, ir.DataType.INT32, ["slots"]),
            total=emit.input(contract.TOTAL_SEQUENCE_LENGTH, ir.DataType.INT32, []),
        )
        self._rope_index = emit.input(contract.ROPE_INDEX, ir.DataType.INT64, ["tokens"])
        self._positions: ir.Value | None = None
        self._logit_index = emit.input(contract.LOGIT_INDEX, ir.DataType.INT64, ["logits"])
        self._tables = Tables(emit, rope_rows)
        self._kv = KeyValues(emit, geometry, dtype, Axes("slots", "capacity", "capacity"), self._tables)
        self._narrow: dict[Rope | LongRope, tuple[ir.Value, ir.Value]] = {}
        self._batch = emit.op("Concat", emit.op("Shape", ids), emit.ints(-1), axis=0)  # (slots, rows, -1)
        self.ids = emit.op("Reshape", ids, emit.ints(-1))

    def tables(self, rope: Rope | LongRope) -> tuple[ir.Value, ir.Value]:
        if rope not in self._narrow:
            cos, sin = self._tables.of(rope)
            self._narrow[rope] = self._emit.narrow(cos), self._emit.narrow(sin)
        return self._narrow[rope]

    def positions(self, rope: Rope | LongRope) -> ir.Value:
        if self._positions is None:
            self._positions = self._emit.op("Unsqueeze", self._rope_index, self._emit.ints(0))
        return self._positions

    def attend(self, spec: Attention, layer: int, qkv: ir.Value, sinks: ir.Value | None) -> ir.Value:
        rows = self._emit.op("Reshape", qkv, self._batch)
        output = self._kv.attend(spec, layer, rows, self._rows, sinks)
        return self._emit.op("Reshape", output, self._emit.ints(-1, spec.num_heads * spec.cached_size))

    def wanted(self, hidden: ir.Value) -> ir.Value:
        return self._emit.op("Gather", hidden, self._logit_index, axis=0)

    def finish(self, logits: ir.Value, vocab_size: int) -> None:
        self._emit.output(logits, contract.LOGITS, ir.DataType.FLOAT, ["logits", vocab_size])
        self._kv.outputs()


def slot_copies(num_layers: int, dtype: ir.DataType) -> ir.Model:
    """Each output is the input of the same cache name, spread over `SLOT_SHAPE`.

    An input of one zero makes the memory of a pool, where the device keeps it; an input of that shape is copied.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="slots")
    shape = _value(contract.SLOT_SHAPE, ir.DataType.INT64, 1)
    graph.inputs.append(shape)
    for past, present in contract.cache_names(num_layers):
        source, target = _value(past, dtype, "given"), _value(present, dtype, "elements")
        graph.inputs.append(source)
        graph.append(ir.node("Expand", [source, shape], outputs=[target], name=present))
        graph.outputs.append(target)
    return ir.Model(graph, ir_version=IR_VERSION)


def _value(name: str, dtype: ir.DataType, length: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape([length]), type=ir.TensorType(dtype))
