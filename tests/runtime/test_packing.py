"""The inputs of a step, small enough to check by eye."""

from __future__ import annotations

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.packing import Layout, decode_again, pack

IDLE_DECODES = {contract.DECODE_INDEX: [0], contract.DECODE_HELD: [0], contract.DECODE_ACTIVE: [0]}
IDLE_CHUNKS = {contract.PAD_INDEX: [[0]], contract.QUERY_SEQLENS: [0], contract.SEQLENS_K: [0]}


def fed(*rows: Row, multiple: int = 1) -> dict[str, list[object]]:
    return {name: value.tolist() for name, value in pack(rows, Layout(multiple)).feeds.items()}


def test_decodes_beside_chunks() -> None:
    rows = [Row(4, 10, [7], 1), Row(2, 0, [5, 6, 8], 2), Row(1, 4, [3, 3], 0), Row(6, 20, [9], 1)]
    step = pack(rows)
    assert (step.chunks, step.decodes) == (slice(1, 3), slice(4, 7))
    assert {name: value.tolist() for name, value in step.feeds.items()} == {
        contract.INPUT_IDS: [7, 5, 6, 8, 3, 3, 9],
        contract.PAD_INDEX: [[4, 5, 5, 5], [1, 2, 3, 3]],  # odd counts repeat their last row, short ones are filled
        contract.QUERY_SEQLENS: [2, 4],
        contract.SEQLENS_K: [5, 3],
        contract.DECODE_INDEX: [0, 0, 6],
        contract.DECODE_HELD: [10, 0, 20],
        contract.DECODE_ACTIVE: [1, 0, 1],  # slot 5, between them, is idle
        contract.ROPE_INDEX: [10, 0, 1, 2, 4, 5, 20],
        contract.UNPAD_INDEX: [8, 4, 5, 6, 0, 1, 10],  # eight places of chunks, then three of decodes
        contract.LOGIT_INDEX: [0, 2, 3, 6],
    }
    assert (step.num_logits, step.longest, step.largest_id) == (4, 21, 9)


def test_without_chunks_an_idle_slot_stands_in_for_them() -> None:
    step = fed(Row(3, 5, [7], 1))
    assert step | IDLE_CHUNKS == step
    assert step[contract.UNPAD_INDEX] == [1]


def test_without_decodes_an_idle_slot_stands_in_for_them() -> None:
    step = fed(Row(3, 5, [7, 8], 1))
    assert step | IDLE_DECODES == step
    assert step[contract.UNPAD_INDEX] == [0, 1]


def test_rows_are_padded_to_a_multiple() -> None:
    step = pack([Row(0, 0, [7, 8, 9], 1)], Layout(multiple=2))
    assert step.feeds[contract.INPUT_IDS].tolist() == [7, 8, 9, 9]
    assert step.feeds[contract.UNPAD_INDEX].tolist() == [0, 1, 2, 2]
    assert step.feeds[contract.LOGIT_INDEX].tolist() == [2, 2]
    assert step.num_logits == 1


def test_a_step_may_want_no_logits() -> None:
    assert fed(Row(0, 0, [7, 8], 0))[contract.LOGIT_INDEX] == []


def test_long_slots_use_the_second_half_of_the_rotary_table() -> None:
    step = pack([Row(0, 2, [7, 8], 1, is_long=True), Row(1, 2, [9], 1)], Layout(rope_rows=100))
    assert step.feeds[contract.ROPE_INDEX].tolist() == [102, 103, 2]


def test_a_graph_without_decodes_reads_chunks_of_one_token() -> None:
    step = pack([Row(2, 5, [7], 1)], Layout(grouped=False))
    assert step.decoding is None
    assert step.feeds.keys().isdisjoint(IDLE_DECODES)
    assert step.feeds[contract.PAD_INDEX].tolist() == [[0, 0]]  # the row is repeated
    assert step.feeds[contract.QUERY_SEQLENS].tolist() == [2]


def test_decoding_again_equals_packing_anew() -> None:
    """Slots in no order, one of them long, padded."""
    layout = Layout(multiple=2, rope_rows=50)
    first = [Row(4, 10, [7], 1), Row(2, 3, [8], 1, is_long=True), Row(5, 6, [9], 1)]
    then = [row._replace(start=row.start + 1, token_ids=[20 + i]) for i, row in enumerate(first)]
    again, anew = decode_again(pack(first, layout), then), pack(then, layout)
    assert again._replace(feeds={}) == anew._replace(feeds={})
    assert {name: value.tolist() for name, value in again.feeds.items()} == {
        name: value.tolist() for name, value in anew.feeds.items()
    }
