"""The weight file: tensors on their boundaries, each once, written in pieces."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from mistralrs_onnx.graphs.weights import CHUNK, LARGE, LINE, PAGE, Field, Stacked, WeightFile
from mistralrs_onnx.ops.formats import Bytes


@dataclass(frozen=True)
class Counting:
    """A matrix of float32 whose elements count up."""

    num_rows: int
    columns: int
    first: int = 0
    format: str = "F32"

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_rows, self.columns

    def rows(self, start: int, stop: int) -> Bytes:
        values = np.arange(start * self.columns, stop * self.columns, dtype=np.float32) + self.first
        return values.reshape(stop - start, self.columns).view(np.uint8)


def whole(columns: int) -> tuple[Field, ...]:
    return (Field("w", np.dtype(np.float32), (columns,)),)


def as_floats(raw: Bytes) -> dict[str, np.ndarray]:
    return {"w": raw.view(np.float32)}


def written(file: WeightFile) -> bytes:
    out = io.BytesIO()
    consumed = sum(file.write(out))
    assert consumed == file.source_bytes
    return out.getvalue()


def test_small_tensors_start_on_lines_and_large_ones_on_pages() -> None:
    file = WeightFile("data")
    file.place("small", Counting(1, 3), whole(3), as_floats)
    [second] = file.place("second", Counting(2, 3), whole(3), as_floats)
    [large] = file.place("large", Counting(LARGE // 64, 16), whole(16), as_floats)
    assert (second.offset, large.offset) == (LINE, PAGE)
    assert len(written(file)) == file.size == PAGE + LARGE


def test_a_tensor_asked_for_twice_lies_there_once() -> None:
    file = WeightFile("data")
    first = file.place("a", Counting(4, 8), whole(8), as_floats)
    assert file.place("a", Counting(4, 8), whole(8), as_floats) == first
    assert file.size == 4 * 8 * 4


def test_a_matrix_larger_than_a_chunk_is_written_piece_by_piece() -> None:
    matrix = Counting(CHUNK // 1024 + 5, 512)
    file = WeightFile("data")
    file.place("a", matrix, whole(512), as_floats)
    assert len(list(file.write(io.BytesIO()))) > 1
    values = np.frombuffer(written(file), np.float32)
    np.testing.assert_array_equal(values, np.arange(matrix.num_rows * 512, dtype=np.float32))


def test_fields_of_one_matrix_go_to_their_own_places() -> None:
    file = WeightFile("data")
    fields = (Field("low", np.dtype(np.uint8), (4,)), Field("high", np.dtype(np.float16), ()))
    tensors = file.place(
        "a",
        Counting(3, 4),
        fields,
        lambda raw: {"low": raw[:, :4], "high": raw.view(np.float32)[:, 0].astype(np.float16)},
    )
    assert [(t.name, t.offset, t.shape.numpy()) for t in tensors] == [("a.low", 0, (3, 4)), ("a.high", LINE, (3,))]
    high = np.frombuffer(written(file)[LINE:], np.float16)
    np.testing.assert_array_equal(high, np.array([0, 4, 8], np.float16))


def test_stacked_matrices_are_read_across_their_seams() -> None:
    stacked = Stacked((Counting(3, 2), Counting(2, 2, first=100), Counting(4, 2, first=200)))
    assert stacked.shape == (9, 2)
    rows = stacked.rows(2, 7).view(np.float32)
    np.testing.assert_array_equal(rows, [[4, 5], [100, 101], [102, 103], [200, 201], [202, 203]])
