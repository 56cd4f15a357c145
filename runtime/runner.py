"""Executes steps of the serving graph with ONNX Runtime: packs rows, binds a window of slots, returns logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.graphs.contract import KVDtype, Manifest

from .core import Logits, Row
from .kv_pool import KVPool
from .packing import pack

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Determinism = Literal["invariant", "fast"]


class OrtRunner:
    """A `Runner` over one session and one pool of slots.

    `max_chunk`: the most tokens that a row of a step may have. `determinism`: with "invariant", logits are the same
    bits whatever else is in the step; "fast" spends less on single decoding rows and keeps that only for them.
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
    ) -> None:
        kv, dtype = manifest.kv, np.dtype(kv_dtype)
        # A padded chunk must fit behind the last token, and so must the repeated row of an odd count.
        self._pool = KVPool(num_slots, kv.num_layers, kv.num_heads, max_model_len + max_chunk + 2, kv.head_size, dtype)
        self.num_slots = num_slots
        self.capacity = max_model_len
        self.vocab_size = manifest.vocab_size
        self.token_bytes = kv.token_bytes(dtype.itemsize)
        self._session = session
        self._binding = session.io_binding()
        self._cache_names = contract.cache_names(kv.num_layers)
        self._window = slice(0, 0)
        self._total = np.array(min(self._pool.capacity, manifest.rope_rows), np.int32)
        self._row_multiple = manifest.row_multiple
        self._even_decodes = determinism == "invariant"
        self._logits: Logits = np.empty((0, self.vocab_size), np.float32)

    def run(self, rows: Sequence[Row]) -> Logits:
        self._reserve_logits(sum(row.num_logits for row in rows))
        groups = [rows] if self._even_decodes else _singles_apart(rows)
        if len(groups) == 1:
            return self._run(groups[0], 0)
        by_slot: dict[int, Logits] = {}
        done = 0
        for group in groups:
            logits = self._run(group, done)
            done += len(logits)
            ends = np.cumsum([row.num_logits for row in group])
            by_slot |= dict(zip((row.slot for row in group), np.split(logits, ends[:-1]), strict=True))
        return np.concatenate([by_slot[row.slot] for row in rows])

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        self._pool.copy(source, target, num_tokens)

    def free(self, slot: int, keep: int = 0) -> None:
        self._pool.free(slot, keep)

    def _run(self, rows: Sequence[Row], first: int) -> Logits:
        step = pack(rows, even_singles=self._even_decodes, multiple=self._row_multiple)
        assert step.longest <= self.capacity + 1, f"slot of {self.capacity} tokens asked to hold {step.longest}"
        assert step.largest_id < self.vocab_size, f"token {step.largest_id} of a vocabulary of {self.vocab_size}"
        self._bind_window(step.window)
        for name, value in step.feeds.items():
            self._bind_input(name, value)
        self._bind_input(contract.TOTAL_SEQUENCE_LENGTH, self._total)
        logits = self._logits[first : first + len(step.feeds[contract.LOGIT_INDEX])]
        self._binding.bind_output(contract.LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        return logits[: step.num_logits]

    def _bind_input(self, name: str, value: NDArray[np.generic]) -> None:
        self._binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)

    def _bind_window(self, window: slice) -> None:
        if window == self._window:
            return
        for (past, present), buffer in zip(self._cache_names, self._pool.arrays, strict=True):
            part = buffer[window]
            where = "cpu", 0, part.dtype, part.shape, part.ctypes.data
            self._binding.bind_input(past, *where)
            self._binding.bind_output(present, *where)
        self._window = window

    def _reserve_logits(self, num_rows: int) -> None:
        padded = num_rows + 2 * self._row_multiple
        if len(self._logits) < padded:
            self._logits = np.empty((padded, self.vocab_size), np.float32)


def _singles_apart(rows: Sequence[Row]) -> list[list[Row]]:
    singles = [row for row in rows if len(row.token_ids) == 1]
    others = [row for row in rows if len(row.token_ids) > 1]
    return [group for group in (singles, others) if group]
