from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mistralrs_onnx.compiler.checkpoints.safetensors import Safetensors, read_safetensors
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.float8 import Float8

E4M3 = ml_dtypes.float8_e4m3fn


def write(folder: Path, scale: NDArray[np.generic] | None, name: str = "weight_scale") -> Safetensors:
    """A weight of 5 rows and 6 columns."""
    tensors: dict[str, NDArray[np.generic]] = {"l.weight": values()}
    save_file(tensors | ({} if scale is None else {f"l.{name}": scale}), folder / "m.safetensors")
    return read_safetensors(folder / "m.safetensors")


def values() -> NDArray[np.generic]:
    return (np.random.default_rng(0).standard_normal((5, 6)) * 50).astype(E4M3)


@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (5,), (5, 1), (3, 2)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_weights_are_scaled_by_tensor_row_or_block(
    tmp_path: Path, shape: tuple[int, ...], name: str, dtype: type[np.generic]
) -> None:
    """Blocks of 2 × 4: the last of each kind is cut off."""
    scale = np.random.default_rng(1).uniform(0.1, 2, shape).astype(dtype)
    with write(tmp_path, scale, name) as file:
        matrix = Float8(block=(2, 4)).matrix(file, "l")
        got = matrix.rows(1, 5).view(np.float32)
    assert (matrix.format, matrix.shape) == ("F32", (5, 6))
    for row in range(1, 5):
        for column in range(6):
            at = {(5,): row, (5, 1): (row, 0), (3, 2): (row // 2, column // 4)}.get(shape, (0,) * len(shape))
            expected = np.float32(values()[row, column]) * np.float32(scale[at])
            assert got[row - 1, column] == expected


def test_every_byte_means_what_the_type_says(tmp_path: Path) -> None:
    everything = np.arange(256, dtype=np.uint8).view(E4M3).reshape(2, 128)
    save_file({"l.weight": everything, "l.weight_scale": np.ones(1, np.float32)}, tmp_path / "m.safetensors")
    with read_safetensors(tmp_path / "m.safetensors") as file:
        got = Float8().matrix(file, "l").rows(0, 2).view(np.float32)
    assert np.array_equal(got, everything.astype(np.float32), equal_nan=True)
    assert np.nanmax(got) == 448  # the largest of this type


def test_layers_that_are_not_in_this_type_are_left_alone(tmp_path: Path) -> None:
    save_file({"norm.weight": np.zeros((2, 2), np.float32)}, tmp_path / "m.safetensors")
    with read_safetensors(tmp_path / "m.safetensors") as file:
        assert not Float8().applies(file, "norm")
        assert not Float8().applies(file, "absent")
    with write(tmp_path, None) as file:
        assert Float8().applies(file, "l")


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (None, "FP8 tensor l.weight needs its scale, one of l.weight_scale and l.weight_scale_inv"),
        (np.ones((3, 2), np.float32), "one per row of 5, or one per block"),
        (np.ones(6, np.float32), r"l.weight_scale has shape \[6\]"),
        (np.ones(1, np.int32), "l.weight_scale has dtype I32"),
        (np.full(1, np.inf, np.float32), "l.weight_scale holds a scale that is not finite"),
    ],
)
def test_scales_that_do_not_fit(tmp_path: Path, scale: NDArray[np.generic] | None, message: str) -> None:
    with write(tmp_path, scale) as file, pytest.raises(CompileError, match=message):
        Float8(block=(4, 4)).matrix(file, "l").rows(0, 5)
