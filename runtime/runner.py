"""Executes steps of the serving graph with ONNX Runtime: packs rows, binds a window of slots, returns logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.graphs.contract import LARGEST_GROUP, KVDtype, Manifest

from .binding import bind_input
from .core import Logits, Row
from .kv_pool import KVPool
from .lanes import Lanes, passes
from .packing import Layout, Step, decode_again, decoding, pack

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding

Determinism = Literal["invariant", "fast"]


class Extra(Protocol):
    """What a graph takes beside tokens and keys and values."""

    @property
    def row_multiple(self) -> int:
        """Experts must see a multiple of so many rows."""

    @property
    def is_new_each_time(self) -> bool:
        """Whether to bind when the same rows decode again, too."""

    def bind(self, binding: IOBinding, rows: Sequence[Row], num_tokens: int) -> None:
        """Before a step; `num_tokens` are packed, padding included.

        What is bound must live until the next call.
        """


class OrtRunner:
    """A `Runner` over one session and one pool of slots.

    `max_chunk`: the most tokens that a row of a step may have. `determinism`: with "invariant", logits are the same
    bits whatever else is in the step and however a prompt is cut; "fast" keeps only the former. `extra`: of a graph
    that takes more than others.
    """

    def __init__(
        self,
        session: InferenceSession,
        manifest: Manifest,
        *,
        num_slots: int,
        max_model_len: int,
        max_chunk: int,
        kv_dtype: KVDtype = "float32",
        determinism: Determinism = "invariant",
        extra: Extra | None = None,
    ) -> None:
        kv, dtype = manifest.kv, np.dtype(kv_dtype)
        # Behind the last token, a padded chunk must fit, and so must the copies that a decode writes.
        capacity = max_model_len + max(max_chunk, LARGEST_GROUP) + 2
        self._pool = KVPool(num_slots, kv.num_layers, kv.num_heads, capacity, kv.head_size, dtype)
        self.num_slots = num_slots
        self.capacity = max_model_len
        self.tgt_non_granular_index: int | None = None
        self.vocab_size = manifest.vocab_size
        self.token_bytes = kv.token_bytes(dtype.itemsize)
        self._session = session
        self._binding = session.io_binding()
        self._chunks = _Window(contract.cache_names(kv.num_layers))
        self._decodes = _Window(contract.cache_names(kv.num_layers, contract.DECODE_PREFIX))
        self.rope_switch = manifest.rope_switch
        self._layout = Layout(1, manifest.grouped_decode, manifest.rope_rows)
        self._has_experts = contract.ROW_MULTIPLE in {value.name for value in session.get_inputs()}
        self._constants: dict[str, NDArray[np.generic]] = {}  # bound memory must live
        longest = min(self._pool.capacity, manifest.rope_rows)
        self._bind_constant(contract.TOTAL_SEQUENCE_LENGTH, np.array(longest, np.int32))
        if manifest.grouped_decode:
            self._bind_constant(contract.DECODE_EVEN, np.array(determinism == "invariant", np.int32))
        self._logits: Logits = np.empty((0, self.vocab_size), np.float32)
        self._bound: Step | None = None
        self._extra = extra
        self.row_multiple = manifest.row_multiple

    @property
    def row_multiple(self) -> int:
        """Kernels see a multiple of so many rows: 2 where a row alone has other bits than in company."""
        return self._layout.multiple

    @row_multiple.setter
    def row_multiple(self, multiple: int) -> None:
        self._layout = self._layout._replace(multiple=multiple)
        self._bound = None
        if self._has_experts:
            least = 1 if self._extra is None else self._extra.row_multiple
            self._bind_constant(contract.ROW_MULTIPLE, np.array([max(multiple, least)], np.int64))

    def run(self, rows: Sequence[Row]) -> Logits:
        parts = passes(rows) if isinstance(self._extra, Lanes) else []
        if len(parts) < 2:
            return self._run(rows)
        first = np.cumsum([0, *(row.num_logits for row in rows)])
        logits = np.empty((first[-1], self.vocab_size), np.float32)
        for part in parts:
            wanted = np.concatenate([np.arange(first[i], first[i + 1]) for i in part])
            logits[wanted] = self._run([rows[i] for i in part])
        return logits

    def _run(self, rows: Sequence[Row]) -> Logits:
        step = self._again(rows) or pack(rows, self._layout)
        assert step.longest <= self.capacity, f"slot of {self.capacity} tokens asked to hold {step.longest}"
        assert step.largest_id < self.vocab_size, f"token {step.largest_id} of a vocabulary of {self.vocab_size}"
        is_new = self._bound is None or step.feeds is not self._bound.feeds
        if is_new:
            self._bind(step)
        if self._extra is not None and (is_new or self._extra.is_new_each_time):
            self._extra.bind(self._binding, rows, len(step.feeds[contract.INPUT_IDS]))
        self._session.run_with_iobinding(self._binding)
        return self._logits[: step.num_logits]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        self._pool.copy(source, target, num_tokens)

    def free(self, slot: int, keep: int = 0) -> None:
        self._pool.free(slot, keep)

    def _again(self, rows: Sequence[Row]) -> Step | None:
        """Decoding goes on as it did in the last step: what is bound stays bound."""
        if self._bound is None or self._bound.decoding is None or self._bound.decoding != decoding(rows):
            return None
        return decode_again(self._bound, rows)

    def _bind(self, step: Step) -> None:
        self._bound = step
        self._bind_window(self._chunks, step.chunks)
        if self._layout.grouped:
            self._bind_window(self._decodes, step.decodes)
        for name, value in step.feeds.items():
            self._bind_input(name, value)
        logits = self._room_for(len(step.feeds[contract.LOGIT_INDEX]))
        self._binding.bind_output(contract.LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)

    def _bind_constant(self, name: str, value: NDArray[np.generic]) -> None:
        self._constants[name] = value
        self._bind_input(name, value)

    def _bind_input(self, name: str, value: NDArray[np.generic]) -> None:
        bind_input(self._binding, name, value)

    def _bind_window(self, window: _Window, slots: slice) -> None:
        if slots == window.slots:
            return
        for (past, present), buffer in zip(window.names, self._pool.arrays, strict=True):
            part = buffer[slots]
            where = "cpu", 0, part.dtype, part.shape, part.ctypes.data
            self._binding.bind_input(past, *where)
            self._binding.bind_output(present, *where)
        window.slots = slots

    def _room_for(self, num_logits: int) -> Logits:
        if len(self._logits) < num_logits:
            self._logits = np.empty((num_logits, self.vocab_size), np.float32)
        return self._logits[:num_logits]


@dataclass(slots=True)
class _Window:
    """Cache names of a part of the graph, and the slots that are bound to them."""

    names: list[tuple[str, str]]
    slots: slice = field(default_factory=lambda: slice(0, 0))
