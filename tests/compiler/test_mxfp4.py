from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mistralrs_onnx.compiler.checkpoints.safetensors import Safetensors, read_safetensors
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.mxfp4 import MXFP4
from mistralrs_onnx.ops.formats import find_format

LEVELS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def opened(folder: Path, blocks: NDArray[Any], scales: NDArray[Any]) -> Safetensors:
    save_file({"e.up_blocks": blocks, "e.up_scales": scales}, folder / "m.safetensors")
    return read_safetensors(folder / "m.safetensors")


def random() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Three experts of 4 rows and 64 columns."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 4, 2, 16), np.uint8), rng.integers(100, 140, (3, 4, 2), np.uint8)


def test_rows_mean_what_the_formula_says(tmp_path: Path) -> None:
    blocks, scales = random()
    with opened(tmp_path, blocks, scales) as file:
        matrix = MXFP4().matrix(file, "e.up")
        raw = matrix.rows(3, 9)
    assert (matrix.format, matrix.shape) == ("MXFP4", (12, 64))
    levels = np.stack([LEVELS[blocks & 15], LEVELS[blocks >> 4]], axis=-1).reshape(3, 4, 2, 32)
    expected = np.ldexp(levels, scales[..., None].astype(int) - 127).reshape(12, 64)
    form = find_format("MXFP4")
    assert np.array_equal(form.dequantize(form.split(raw)), expected[3:9])


@pytest.mark.oracle
def test_rows_mean_what_transformers_says(tmp_path: Path) -> None:
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks, scales = random()
    theirs = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32)
    with opened(tmp_path, blocks, scales) as file:
        raw = MXFP4().matrix(file, "e.up").rows(0, 12)
    form = find_format("MXFP4")
    ours = form.dequantize(form.split(raw)).reshape(3, 4, 64)
    assert np.array_equal(ours.swapaxes(1, 2), theirs.numpy())  # theirs are (experts, K, N)


def test_only_layers_with_blocks(tmp_path: Path) -> None:
    with opened(tmp_path, *random()) as file:
        assert MXFP4().applies(file, "e.up")
        assert not MXFP4().applies(file, "e.down")


@pytest.mark.parametrize(
    ("blocks", "scales", "message"),
    [
        (np.zeros((4, 2, 8), np.uint8), np.zeros((4, 2), np.uint8), r"e.up_blocks must be U8 of shape \[..., 16\]"),
        (np.zeros((4, 2, 16), np.int8), np.zeros((4, 2), np.uint8), "e.up_blocks must be U8"),
        (
            np.zeros((4, 2, 16), np.uint8),
            np.zeros((4, 1), np.uint8),
            r"e.up_scales must be U8 \[4, 2\], got U8 \[4, 1\]",
        ),
        (np.zeros((4, 2, 16), np.uint8), np.zeros((4, 2), np.float32), "e.up_scales must be U8"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, blocks: NDArray[Any], scales: NDArray[Any], message: str) -> None:
    with opened(tmp_path, blocks, scales) as file, pytest.raises(CompileError, match=message):
        MXFP4().matrix(file, "e.up")
