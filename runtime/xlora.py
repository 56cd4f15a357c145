"""Steps of X-LoRA: each token passes the graph twice, over two sets of keys and values.

The first pass makes scalings, the second uses them. With `tgt_non_granular_index` k, the scalings of a request's k-th
generated token are those of all that follow, which then pass only once (mistral.rs, non-granular scalings).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.graphs.contract import XLoraRecord

from .binding import bind_input, bind_output
from .core import Logits, Row

if TYPE_CHECKING:
    from onnxruntime import IOBinding

    from .runner import Extra, OrtRunner

Float32 = NDArray[np.float32]
ROWS = 2  # float matmuls sum a row alone in another order


class _Pass:
    """What a pass takes: `scalings`, of the tokens of a step, and whether those of the next pass are wanted."""

    row_multiple = ROWS
    is_new_each_time = True

    def __init__(self, record: XLoraRecord, *, makes_scalings: bool) -> None:
        self._shape = record.num_sets, len(record.adapters)
        self._makes_scalings = makes_scalings
        self._is_scaled = np.array([not makes_scalings or any(record.scaling_pass)])
        dummy = np.array(record.scaling_pass, np.float32)
        self.scalings: Float32 = np.broadcast_to(dummy, self._shape)[None]
        self.made: Float32 = np.empty((0, *self._shape), np.float32)

    def bind(self, binding: IOBinding, rows: Sequence[Row], num_tokens: int) -> None:
        """Padding has the scalings of the last token, as it has its keys."""
        given = self.scalings if len(self.scalings) > 1 else np.broadcast_to(self.scalings, (num_tokens, *self._shape))
        missing = num_tokens - len(given)
        self._given = np.concatenate([given, np.repeat(given[-1:], missing, axis=0)])
        self._wanted = np.arange(num_tokens if self._makes_scalings else ROWS) % num_tokens
        self.made = np.empty((len(self._wanted), *self._shape), np.float32)
        bind_input(binding, contract.SCALINGS, self._given)
        bind_input(binding, contract.IS_SCALED, self._is_scaled)
        bind_input(binding, contract.SCALING_INDEX, self._wanted)
        bind_output(binding, contract.NEXT_SCALINGS, self.made)


class XLoraRunner:
    """A `Runner` of two runners over one session, each with keys and values of its own."""

    def __init__(
        self,
        make_runner: Callable[[Extra], OrtRunner],
        record: XLoraRecord,
        tgt_non_granular_index: int | None = None,
    ) -> None:
        self._first, self._second = (_Pass(record, makes_scalings=first) for first in (True, False))
        self._scaling, self._scaled = make_runner(self._first), make_runner(self._second)
        self.num_slots, self.capacity = self._scaled.num_slots, self._scaled.capacity
        self.vocab_size, self.rope_switch = self._scaled.vocab_size, self._scaled.rope_switch
        self.token_bytes = self._scaling.token_bytes + self._scaled.token_bytes
        self.tgt_non_granular_index = tgt_non_granular_index
        self._frozen: dict[int, Float32] = {}  # scalings of a slot's later tokens
        self.row_multiple = ROWS

    @property
    def row_multiple(self) -> int:
        return self._scaled.row_multiple

    @row_multiple.setter
    def row_multiple(self, multiple: int) -> None:
        self._scaling.row_multiple = self._scaled.row_multiple = max(multiple, ROWS)

    def run(self, rows: Sequence[Row]) -> Logits:
        """Rows must be computed up to where their scalings no longer change before what follows is."""
        granular = [_granular(row) for row in rows]
        scalings = self._make([row for row in granular if row.token_ids])
        each, start = [], 0
        for row, own in zip(rows, granular, strict=True):
            stop = start + len(own.token_ids)
            each.append(self._of_row(row, scalings[start:stop]))
            start = stop
        self._second.scalings = np.concatenate(each)
        return self._scaled.run(rows)

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        self._scaling.copy(source, target, num_tokens)
        self._scaled.copy(source, target, num_tokens)

    def free(self, slot: int, keep: int = 0) -> None:
        self._scaling.free(slot, keep)
        self._scaled.free(slot, keep)

    def _make(self, rows: Sequence[Row]) -> Float32:
        if not rows:
            return self._first.made[:0]
        self._scaling.run([row._replace(num_logits=0) for row in rows])
        return self._first.made

    def _of_row(self, row: Row, made: Float32) -> Float32:
        if row.last_granular is None:
            return made
        if row.start <= row.last_granular < row.start + len(row.token_ids):
            self._frozen[row.slot] = made[-1].copy()
        missing = len(row.token_ids) - len(made)
        return made if not missing else np.concatenate([made, np.repeat(self._frozen[row.slot][None], missing, axis=0)])


def _granular(row: Row) -> Row:
    """The tokens that have scalings of their own."""
    if row.last_granular is None:
        return row
    count = max(0, row.last_granular + 1 - row.start)
    return row._replace(token_ids=row.token_ids[:count])
