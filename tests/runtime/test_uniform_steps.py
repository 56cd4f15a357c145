"""The runs of a step where all slots of a run take equally many tokens, small enough to check by eye."""

from __future__ import annotations

import numpy as np

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.uniform_steps import Run, order, runs

HELD = np.array([0, 9, 8, 7, 6, 5])


def fed(run: Run) -> dict[str, object]:
    return {name: value.tolist() for name, value in run.feeds.items()}


def test_chunks_run_alone_and_then_all_decodes_together() -> None:
    rows = [Row(5, 5, [7], 1), Row(3, 4, [5, 6, 8], 2), Row(2, 8, [9], 1)]
    chunk, decode = runs(rows, HELD, rope_rows=100)
    assert (chunk.slots, chunk.rows, chunk.num_logits) == (slice(3, 4), (1,), 2)
    assert fed(chunk) == {
        contract.INPUT_IDS: [[5, 6, 8]],
        contract.SEQLENS_K: [6],
        contract.TOTAL_SEQUENCE_LENGTH: 7,
        contract.ROPE_INDEX: [4, 5, 6],
        contract.LOGIT_INDEX: [1, 2],
    }
    assert (decode.slots, decode.rows, decode.num_logits) == (slice(2, 6), (0, 2), 2)
    assert fed(decode) == {
        contract.INPUT_IDS: [[9], [0], [0], [7]],
        contract.SEQLENS_K: [8, 7, 6, 5],  # slot 3 writes behind its chunk, slot 4 behind what it held
        contract.TOTAL_SEQUENCE_LENGTH: 9,
        contract.ROPE_INDEX: [8, 7, 6, 5],
        contract.LOGIT_INDEX: [3, 0],  # in the order of rows
    }
    assert order([chunk, decode], rows).tolist() == [1, 2, 0, 3]


def test_long_slots_use_the_second_half_of_the_rotary_table() -> None:
    rows = [Row(1, 9, [7], 1, is_long=True), Row(2, 8, [7], 1), Row(3, 2, [7, 8], 1, is_long=True)]
    chunk, decode = runs(rows, HELD, rope_rows=100)
    assert chunk.feeds[contract.ROPE_INDEX].tolist() == [102, 103]
    assert decode.feeds[contract.ROPE_INDEX].tolist() == [109, 8]


def test_where_no_logits_are_wanted_some_are_computed() -> None:
    """No operator of a device is shown a matrix without rows."""
    rows = [Row(1, 9, [7, 8], 0), Row(2, 8, [7], 0)]
    made = runs(rows, HELD, rope_rows=100)
    assert [run.num_logits for run in made] == [0, 0]
    assert [run.feeds[contract.LOGIT_INDEX].tolist() for run in made] == [[0], [0]]
    assert order(made, rows).tolist() == []
