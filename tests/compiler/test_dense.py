from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from golden import read_golden
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tiny_models import write_folder

from mistralrs_onnx.compiler.checkpoints.safetensors import read_safetensors
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.compiler.dense import Converted, DenseAs, SafeMatrix, cast_rows, read_vector
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.runtime.package import open_package

NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class InMemory:
    """A matrix of float values."""

    values: NDArray[np.generic]
    format: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self.values[start:stop].view(np.uint8)


def matrix_of(kind: str) -> InMemory:
    values = np.random.default_rng(0).standard_normal((5, 6)) * 100
    return InMemory(values.astype(NUMPY[kind]), kind)


@pytest.mark.parametrize("kind", NUMPY)
def test_rows_of_a_file(tmp_path: Path, kind: str) -> None:
    values = matrix_of(kind).values
    save_file({"w": values, "experts": values.reshape(1, 5, 6), "v": values[0]}, tmp_path / "m.safetensors")
    with read_safetensors(tmp_path / "m.safetensors") as file:
        for name in ("w", "experts"):
            matrix = SafeMatrix(file, file[name])
            assert (matrix.format, matrix.shape) == (kind, (5, 6))
            assert np.array_equal(matrix.rows(1, 4).view(NUMPY[kind]), values[1:4])
        assert np.array_equal(read_vector(file, "v"), values[0].astype(np.float32))


def test_what_is_no_dense_matrix_is_named(tmp_path: Path) -> None:
    save_file({"v": np.zeros(3, np.float32), "q": np.zeros((2, 2), np.int32)}, tmp_path / "m.safetensors")
    with read_safetensors(tmp_path / "m.safetensors") as file:
        with pytest.raises(CompileError, match=r"tensor v must be a matrix, got shape \[3\]"):
            SafeMatrix(file, file["v"])
        with pytest.raises(CompileError, match="tensor q has dtype I32, needed here: one of F32, F16, BF16"):
            SafeMatrix(file, file["q"])


@pytest.mark.parametrize("source", NUMPY)
@pytest.mark.parametrize("target", NUMPY)
def test_any_float_type_to_any_other(source: str, target: str) -> None:
    matrix = matrix_of(source)
    converted = Converted(matrix, target, "w")
    expected = matrix.values.astype(np.float32).astype(NUMPY[target])
    assert (converted.format, converted.shape) == (target, (5, 6))
    assert np.array_equal(converted.rows(2, 5).view(NUMPY[target]), expected[2:5])


def test_ties_go_to_even() -> None:
    ties = np.array([[1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8]], np.float32)
    half = cast_rows(ties.view(np.uint8), "F32", "F16", "w").view(np.float16)
    brain = cast_rows(ties.view(np.uint8), "F32", "BF16", "w").view(ml_dtypes.bfloat16).astype(np.float32)
    assert half[0, :2].tolist() == [1, 1 + 2**-9]
    assert brain[0, 2:].tolist() == [1, 1 + 2**-6]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("value", "source", "target"),
    [(65520.0, "F32", "F16"), (-1e38, "BF16", "F16"), (3.4e38, "F32", "BF16")],
)
def test_values_that_would_become_infinite_are_refused(value: float, source: str, target: str) -> None:
    values = np.array([[0, value]], NUMPY[source])
    with pytest.raises(CompileError, match=f"tensor w holds .*, which {target} cannot hold"):
        Converted(InMemory(values, source), target, "w").rows(0, 1)


def test_values_that_are_infinite_stay_so() -> None:
    values = np.array([[np.inf, -np.inf, np.nan, 65519.0]], np.float32)
    half = cast_rows(values.view(np.uint8), "F32", "F16", "w").view(np.float16)
    assert half.tolist()[0][:2] == [np.inf, -np.inf]
    assert np.isnan(half[0, 2])
    assert half[0, 3] == 65504


class Named:
    """Two matrices and a vector."""

    def __contains__(self, name: str) -> bool:
        return name in {"dense", "packed"}

    def matrix(self, name: str) -> InMemory:
        return matrix_of("F32") if name == "dense" else InMemory(np.zeros((1, 18), np.uint8), "Q4_0")

    def vector(self, name: str) -> NDArray[np.float32]:
        return np.ones(3, np.float32)


def test_only_dense_matrices_are_converted() -> None:
    weights = DenseAs(Named(), "BF16")
    assert [weights.matrix(name).format for name in ("dense", "packed")] == ["BF16", "Q4_0"]
    assert ("dense" in weights, "absent" in weights, weights.vector("v").dtype) == (True, False, np.float32)


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "BF16"), ("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")])
def test_auto_keeps_the_types_of_the_checkpoint(dtype: str, expected: str, tmp_path: Path) -> None:
    model = read_golden()["llama"].model
    folder = write_folder(model, tmp_path / "model")
    narrow = {name: values.astype(ml_dtypes.bfloat16) for name, values in model.weights().items()}
    save_file(narrow, folder / "model.safetensors")
    package = open_package(compile_folder(folder, tmp_path / "package", CompileOptions(dtype=dtype)))
    matrices = [record for record in package.manifest.tensors.values() if len(record.shape) == 2]
    assert {record.type for record in matrices} == {expected}
