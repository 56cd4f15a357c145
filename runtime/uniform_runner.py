"""Executes steps where attention sees slots of equal lengths only, as on CUDA: one run for all rows of one token, and
one for each chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.graphs.contract import Manifest

from .binding import bind_input, bind_output
from .core import Logits, Row
from .device_pool import DTYPE, DevicePool
from .devices import Device
from .uniform_steps import Run, held_after, order, runs

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class UniformRunner:
    """A `Runner` over the graph for CUDA, on whatever device its sessions are.

    Keys and values are float16, and their memory is taken at once: `free` gives none back. Logits depend in their last
    bits on what else is in the step. `slots`: of the graph that copies them. Raises PackageError where the device has
    too little memory.
    """

    def __init__(
        self,
        engine: InferenceSession,
        slots: InferenceSession,
        manifest: Manifest,
        device: Device,
        *,
        num_slots: int,
        max_model_len: int,
    ) -> None:
        self.num_slots = num_slots
        self.tgt_non_granular_index: int | None = None
        self.capacity = max_model_len
        self.vocab_size = manifest.vocab_size
        self.token_bytes = manifest.kv.token_bytes(DTYPE.itemsize)
        self.rope_switch = manifest.rope_switch
        self._rope_rows = manifest.rope_rows
        # Behind the last token of a full slot there is room for what an idle one writes.
        self._pool = DevicePool(slots, device, manifest.kv, num_slots=num_slots, capacity=max_model_len + 1)
        self._held = np.zeros(num_slots, np.int64)
        self._chunks, self._decodes = _Bound(engine, self._pool), _Bound(engine, self._pool)
        self._logits: Logits = np.empty((0, self.vocab_size), np.float32)

    def run(self, rows: Sequence[Row]) -> Logits:
        made = runs(rows, self._held, self._rope_rows)
        num_logits = sum(run.num_logits for run in made)
        if len(self._logits) <= num_logits:  # one more than is wanted
            self._logits = np.empty((num_logits + 1, self.vocab_size), np.float32)
        end = 0
        for run in made:
            self._run(run, self._logits[end : end + max(run.num_logits, 1)])
            end += run.num_logits
        self._held = held_after(self._held, rows)
        places = order(made, rows)
        if np.array_equal(places, np.arange(num_logits)):
            return self._logits[:num_logits]
        sorted_logits = np.empty((num_logits, self.vocab_size), np.float32)
        sorted_logits[places] = self._logits[:num_logits]
        return sorted_logits

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        self._pool.copy(source, target)
        self._held[target] = num_tokens

    def free(self, slot: int, keep: int = 0) -> None:
        self._held[slot] = min(self._held[slot], keep)

    def _run(self, run: Run, logits: Logits) -> None:
        ids, longest = run.feeds[contract.INPUT_IDS], int(run.feeds[contract.TOTAL_SEQUENCE_LENGTH])
        assert longest <= self._pool.capacity, f"slot of {self._pool.capacity} tokens asked to hold {longest}"
        assert ids.max() < self.vocab_size, f"token {ids.max()} of a vocabulary of {self.vocab_size}"
        (self._decodes if ids.shape[1] == 1 else self._chunks).run(run, logits)


class _Bound:
    """Runs of one form, whose window of slots often stays the same."""

    def __init__(self, session: InferenceSession, pool: DevicePool) -> None:
        self._session = session
        self._pool = pool
        self._binding = session.io_binding()
        self._slots: slice | None = None

    def run(self, run: Run, logits: Logits) -> None:
        if run.slots != self._slots:
            self._pool.bind(self._binding, run.slots)
            self._slots = run.slots
        for name, value in run.feeds.items():  # each time, for a device takes their values now
            bind_input(self._binding, name, value)
        bind_output(self._binding, contract.LOGITS, logits)
        self._session.run_with_iobinding(self._binding)
