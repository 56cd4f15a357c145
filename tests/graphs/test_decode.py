"""Query heads as rows of their group: every head comes back where it was, beside its own keys and values."""

from __future__ import annotations

import numpy as np
import pytest

from mistralrs_onnx.graphs.attention import Attention, Rope
from mistralrs_onnx.graphs.decode import num_rows, query_order, row_order

SHAPES = [(9, 3), (4, 4), (8, 2), (6, 1), (2, 1)]


def spec(heads: int, kv_heads: int) -> Attention:
    return Attention(heads, kv_heads, 16, Rope((1.0,) * 8), 1.0)


def test_rows_of_two_heads_in_a_group() -> None:
    """Four query heads in pairs: 0 and 1 share key head 0, which is head 4; values begin with head 6."""
    assert row_order(spec(4, 2)).tolist() == [[0, 2, 4, 5, 6, 7], [1, 3, 4, 5, 6, 7]]
    assert query_order(spec(4, 2)).tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(("heads", "kv_heads"), SHAPES)
def test_rows_are_even_and_hold_every_query_head_and_all_keys(heads: int, kv_heads: int) -> None:
    rows = row_order(spec(heads, kv_heads))
    assert len(rows) == num_rows(spec(heads, kv_heads))
    assert len(rows) % 2 == 0
    assert set(rows[:, :kv_heads].flat) == set(range(heads))
    assert (rows[:, kv_heads:] == np.arange(heads, heads + 2 * kv_heads)).all()
    assert (rows[:, :kv_heads] // (heads // kv_heads) == np.arange(kv_heads)).all()  # each under its own key head


@pytest.mark.parametrize(("heads", "kv_heads"), SHAPES)
def test_queries_are_found_again(heads: int, kv_heads: int) -> None:
    queries = row_order(spec(heads, kv_heads))[:, :kv_heads].reshape(-1)
    assert queries[query_order(spec(heads, kv_heads))].tolist() == list(range(heads))
