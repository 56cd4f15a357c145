"""The inputs of a step, small enough to check by eye."""

from __future__ import annotations

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.packing import pack


def test_a_decode_beside_a_chunk_and_an_idle_slot() -> None:
    step = pack([Row(4, 10, [7], 1), Row(2, 0, [5, 6, 8], 2)], even_singles=True)
    assert step.window == slice(2, 5)
    assert {name: value.tolist() for name, value in step.feeds.items()} == {
        contract.INPUT_IDS: [7, 5, 6, 8],
        contract.PAD_INDEX: [[1, 2, 3, 3], [0, 0, 0, 0], [0, 0, 0, 0]],  # odd counts repeat their last row
        contract.UNPAD_INDEX: [8, 0, 1, 2],
        contract.QUERY_SEQLENS: [4, 0, 2],
        contract.SEQLENS_K: [3, 0, 11],
        contract.LOGIT_INDEX: [0, 2, 3],
    }
    assert (step.num_logits, step.longest, step.largest_id) == (3, 12, 8)


def test_single_rows_may_stay_single() -> None:
    step = pack([Row(0, 3, [7], 1), Row(1, 5, [9], 1)], even_singles=False)
    assert step.feeds[contract.QUERY_SEQLENS].tolist() == [1, 1]
    assert step.feeds[contract.PAD_INDEX].tolist() == [[0], [1]]


def test_rows_are_padded_to_a_multiple() -> None:
    step = pack([Row(0, 0, [7, 8, 9], 1)], even_singles=True, multiple=2)
    assert step.feeds[contract.INPUT_IDS].tolist() == [7, 8, 9, 9]
    assert step.feeds[contract.UNPAD_INDEX].tolist() == [0, 1, 2, 2]
    assert step.feeds[contract.LOGIT_INDEX].tolist() == [2, 2]
    assert step.num_logits == 1


def test_a_step_may_want_no_logits() -> None:
    step = pack([Row(0, 0, [7, 8], 0)], even_singles=True)
    assert step.feeds[contract.LOGIT_INDEX].tolist() == []
