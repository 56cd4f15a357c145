"""Experts in MXFP4 as gpt-oss stores them, relaid bit for bit into rows of GGML's format of that name."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from mistralrs_onnx.ops.formats import Bytes

from .checkpoints.safetensors import SafeTensor, Safetensors
from .errors import CompileError

BLOCK_SIZE, BLOCK_BYTES = 32, 16


@dataclass(frozen=True, slots=True)
class MXFP4:
    """`name_blocks` (experts, N, K / 32, 16) and `name_scales` (experts, N, K / 32), both bytes."""

    def applies(self, file: Safetensors, prefix: str) -> bool:
        return f"{prefix}_blocks" in file.tensors

    def matrix(self, file: Safetensors, prefix: str) -> MXFP4Matrix:
        """The matrices of all experts on top of each other."""
        blocks, scales = file[f"{prefix}_blocks"], file[f"{prefix}_scales"]
        if blocks.dtype != "U8" or len(blocks.shape) < 3 or blocks.shape[-1] != BLOCK_BYTES or 0 in blocks.shape:
            raise CompileError(f"tensor {blocks.name} must be U8 of shape [..., 16], got {blocks.dtype} {blocks.shape}")
        if scales.dtype != "U8" or scales.shape != blocks.shape[:-1]:
            expected = f"U8 {list(blocks.shape[:-1])}"
            raise CompileError(f"tensor {scales.name} must be {expected}, got {scales.dtype} {list(scales.shape)}")
        return MXFP4Matrix(file, blocks, scales)


@dataclass(frozen=True, slots=True)
class MXFP4Matrix:
    """Rows of one byte of scale and 16 of levels a block."""

    file: Safetensors
    blocks: SafeTensor
    scales: SafeTensor

    @property
    def format(self) -> str:
        return "MXFP4"

    @property
    def shape(self) -> tuple[int, int]:
        return prod(self.blocks.shape[:-2]), self.blocks.shape[-2] * BLOCK_SIZE

    def rows(self, start: int, stop: int) -> Bytes:
        scales, blocks = self._rows(self.scales, start, stop, 1), self._rows(self.blocks, start, stop, BLOCK_BYTES)
        return np.concatenate([scales, _halves_apart(blocks)], axis=-1).reshape(stop - start, -1)

    def _rows(self, tensor: SafeTensor, start: int, stop: int, width: int) -> Bytes:
        """(rows, K / 32, width)"""
        row_bytes = self.blocks.shape[-2] * width
        return self.file.read(tensor, start * row_bytes, (stop - start) * row_bytes).reshape(stop - start, -1, width)


def _halves_apart(blocks: Bytes) -> Bytes:
    """Byte j holds columns 2j and 2j + 1 there, and j and j + 16 here; the earlier one in the low half."""
    first, second = blocks[..., :8], blocks[..., 8:]
    low, high = np.uint8(0x0F), np.uint8(0xF0)
    even = (first & low) | ((second & low) << np.uint8(4))
    odd = (first >> np.uint8(4)) | (second & high)
    return np.stack([even, odd], axis=-1).reshape(blocks.shape)
