"""Steps without a KV cache: the whole text of each row is computed anew, and its keys and values are let go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .core import Logits, Row, Runner

SLOT = 0  # of the runner inside, which every row uses in its turn


class Uncached:
    """A `Runner` whose slots remember tokens and nothing else. Slow on purpose: for tests and for those who doubt.

    `max_chunk`: the most tokens that the runner inside takes in a row.
    """

    def __init__(self, runner: Runner, *, num_slots: int, max_chunk: int) -> None:
        self.num_slots = num_slots
        self.capacity, self.vocab_size = runner.capacity, runner.vocab_size
        self.token_bytes, self.rope_switch = runner.token_bytes, runner.rope_switch
        self.tgt_non_granular_index = runner.tgt_non_granular_index
        self._runner = runner
        self._max_chunk = max_chunk
        self._texts: list[list[int]] = [[] for _ in range(num_slots)]

    def run(self, rows: Sequence[Row]) -> Logits:
        logits = np.empty((sum(row.num_logits for row in rows), self.vocab_size), np.float32)
        end = 0
        for row in rows:
            text = self._texts[row.slot] = [*self._texts[row.slot][: row.start], *row.token_ids]
            if row.num_logits:  # what nobody asks about is computed when somebody does
                start, end = end, end + row.num_logits
                logits[start:end] = self._compute(row._replace(slot=SLOT, start=0, token_ids=text))
        return logits

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        self._texts[target] = self._texts[source][:num_tokens]

    def free(self, slot: int, keep: int = 0) -> None:
        del self._texts[slot][keep:]

    def _compute(self, row: Row) -> Logits:
        try:
            for part in self._parts(row):
                logits = self._runner.run([part])
        finally:
            self._runner.free(SLOT)
        return logits

    def _parts(self, row: Row) -> Iterator[Row]:
        """Chunks of a text; the last is as long as it may be and has all the logits."""
        num_last = min(len(row.token_ids), max(self._max_chunk, row.num_logits))
        num_before = len(row.token_ids) - num_last
        for start in range(0, num_before, self._max_chunk):
            chunk = row.token_ids[start : min(start + self._max_chunk, num_before)]
            yield row._replace(start=start, token_ids=chunk, num_logits=0)
        yield row._replace(start=num_before, token_ids=row.token_ids[num_before:])
