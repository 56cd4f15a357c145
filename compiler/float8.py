"""Weights in 8-bit floats with scales, as float32 rows: fine-grained (blocks), per row or per tensor."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from mistralrs_onnx.ops.formats import Bytes, Float32

from .checkpoints.safetensors import SafeTensor, Safetensors
from .dense import read_vector
from .errors import CompileError

# The value of every byte.
VALUES: Float32 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Float8:
    """How a checkpoint scales its FP8 weights; `block` is (rows, columns) that share a scale, if any do."""

    block: tuple[int, int] | None = None

    def applies(self, file: Safetensors, prefix: str) -> bool:
        tensor = file.tensors.get(f"{prefix}.weight")
        return tensor is not None and tensor.dtype == "F8_E4M3"

    def matrix(self, file: Safetensors, prefix: str) -> Float8Matrix:
        """The weight of a linear layer. Raises CompileError unless its scales fit it."""
        tensor = file[f"{prefix}.weight"]
        if tensor.dtype != "F8_E4M3" or len(tensor.shape) != 2 or 0 in tensor.shape:
            raise CompileError(f"tensor {tensor.name} must be a matrix of F8_E4M3, got {tensor.dtype} {tensor.shape}")
        scale = file[_scale_name(file, prefix)]
        return Float8Matrix(file, tensor, scale, self._block(tensor, scale))

    def _block(self, tensor: SafeTensor, scale: SafeTensor) -> tuple[int, int]:
        rows, columns = tensor.shape
        if scale.shape in {(), (1,), (1, 1)}:
            return rows, columns
        if scale.shape in {(rows,), (rows, 1)}:
            return 1, columns
        if self.block and scale.shape == (-(-rows // self.block[0]), -(-columns // self.block[1])):
            return self.block
        raise CompileError(
            f"tensor {scale.name} has shape {list(scale.shape)}: one scale, one per row of {rows}, "
            f"or one per block (weight_block_size: {self.block}) is needed"
        )


def _scale_name(file: Safetensors, prefix: str) -> str:
    """Both names mean a factor, the inverse of what the quantizer divided by."""
    names = [f"{prefix}.weight_scale", f"{prefix}.weight_scale_inv"]
    found = [name for name in names if name in file.tensors]
    if len(found) != 1:
        raise CompileError(f"FP8 tensor {prefix}.weight needs its scale, one of {' and '.join(names)}, got {found}")
    return found[0]


@dataclass(frozen=True, slots=True)
class Float8Matrix:
    """w = scale · e4m3, in float32. `block` is (rows, columns) that share a scale."""

    file: Safetensors
    tensor: SafeTensor
    scale: SafeTensor
    block: tuple[int, int]

    @property
    def format(self) -> str:
        return "F32"

    @property
    def shape(self) -> tuple[int, int]:
        return self.tensor.shape[0], self.tensor.shape[1]

    def rows(self, start: int, stop: int) -> Bytes:
        columns = self.shape[1]
        raw = self.file.read(self.tensor, start * columns, (stop - start) * columns).reshape(stop - start, columns)
        scales = self._scales()[np.arange(start, stop) // self.block[0]]
        widened = np.repeat(scales, self.block[1], axis=1)[:, :columns]
        return (VALUES[raw] * widened).view(np.uint8)

    def _scales(self) -> Float32:
        """(blocks of rows, blocks of columns)"""
        scales = read_vector(self.file, self.scale.name)
        if not np.isfinite(scales).all():
            raise CompileError(f"tensor {self.scale.name} holds a scale that is not finite: the checkpoint is damaged")
        return scales.reshape(-(-self.shape[0] // self.block[0]), -1)
