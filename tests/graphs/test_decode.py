"""Query heads as rows of their group: every head comes back where it was, beside its own keys and values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from mistralrs_onnx.graphs.attention import Attention, Rope
from mistralrs_onnx.graphs.decode import group_heads, num_rows, ungroup_heads
from mistralrs_onnx.graphs.emit import Drawing, Emit
from mistralrs_onnx.graphs.weights import WeightFile

SHAPES = [(9, 3), (4, 4), (8, 2), (6, 1), (2, 1)]
HEAD = 4


class Nothing:
    """A model without weights."""

    def __contains__(self, name: str) -> bool:
        return False


def spec(heads: int, kv_heads: int) -> Attention:
    return Attention(heads, kv_heads, HEAD, Rope((1.0, 1.0)), 1.0)


def run(draw: Callable[[Emit, ir.Value], ir.Value], x: NDArray[np.float32]) -> NDArray[np.float32]:
    emit = Emit("graph", Nothing(), WeightFile("data"), Drawing())
    value = emit.input("x", ir.DataType.FLOAT, list(x.shape))
    emit.output(draw(emit, value), "y", ir.DataType.FLOAT, [f"axis{i}" for i in range(x.ndim)])
    model = ir.to_proto(emit.finish()).SerializeToString()
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize(("heads", "kv_heads"), SHAPES)
def test_rows_hold_the_heads_of_a_group(heads: int, kv_heads: int) -> None:
    """Head h of token t is the number 100 t + h in every element."""
    numbers = np.arange(2)[:, None] * 100 + np.arange(heads + 2 * kv_heads)
    x = np.repeat(numbers, HEAD, axis=1).astype(np.float32)
    rows = run(lambda emit, value: group_heads(emit, spec(heads, kv_heads), value), x)
    assert rows.shape == (2, num_rows(spec(heads, kv_heads)), 3 * kv_heads * HEAD)
    assert rows.shape[1] % 2 == 0
    group = heads // kv_heads
    for t in range(2):
        for r in range(rows.shape[1]):
            found = rows[t, r].reshape(-1, HEAD)[:, 0] - 100 * t
            queries = [kv * group + min(r, group - 1) for kv in range(kv_heads)]
            assert found.tolist() == [*queries, *range(heads, heads + 2 * kv_heads)]


@pytest.mark.parametrize(("heads", "kv_heads"), SHAPES)
def test_ungrouping_is_the_way_back(heads: int, kv_heads: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, (heads + 2 * kv_heads) * HEAD)).astype(np.float32)

    def there_and_back(emit: Emit, value: ir.Value) -> ir.Value:
        rows = group_heads(emit, spec(heads, kv_heads), value)
        queries, _ = emit.ops("Split", 2, rows, emit.ints(kv_heads * HEAD, 2 * kv_heads * HEAD), axis=-1)
        return ungroup_heads(emit, spec(heads, kv_heads), queries)

    np.testing.assert_array_equal(run(there_and_back, x), x[:, : heads * HEAD])
