"""Our own integer formats: int4 and int8 with any block size, float16 or float32 scales, with or without zero points.

A block of a row is its scale, its zero point (a byte) if it has one, and its levels, lowest bits first.
"""

from __future__ import annotations

import re

import numpy as np

from .formats_block import (
    Bytes,
    Float32,
    Format,
    Planes,
    PlaneSpec,
    Widened,
    blocks_of,
    file_rows,
    octets,
    pack,
    reciprocal,
    wide,
)
from .kquants_search import fit_symmetric

NAME = re.compile(r"int([48])-(16|32|64|128|256)(-zp)?(-f32)?")
PATTERN = "int{4,8}-{16,32,64,128,256}[-zp][-f32]"


class Integers(Format):
    """w = d · (q - zero), where zero is 2^(bits-1) or, with zero points, a byte of each block."""

    def __init__(self, bits: int, block_size: int, *, zero_points: bool = False, float32_scales: bool = False) -> None:
        self.name = f"int{bits}-{block_size}{'-zp' * zero_points}{'-f32' * float32_scales}"
        self.bits, self.zero = bits, 1 << (bits - 1)
        self.block_size = self.nbits_block = block_size
        self.scale_type = np.dtype(np.float32 if float32_scales else np.float16)
        self.zero_points = zero_points
        num_bytes = block_size * bits // 8
        self.type_size = self.scale_type.itemsize + zero_points + num_bytes
        scale = PlaneSpec("d", "float32" if float32_scales else "float16", 1)
        zero = (PlaneSpec("zero", "uint8", 1),) if zero_points else ()
        self.planes = (PlaneSpec("q", "uint8", num_bytes), scale, *zero)

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        size = self.scale_type.itemsize
        d = np.ascontiguousarray(blocks[..., :size]).view(self.scale_type)[..., 0]
        planes: Planes = {"q": blocks[..., size + self.zero_points :], "d": d}
        return planes | {"zero": blocks[..., size]} if self.zero_points else planes

    def widen(self, planes: Planes) -> Widened:
        zero = octets(planes["zero"]) if self.zero_points else None
        return Widened(octets(planes["q"]), wide(planes["d"]), zero=zero)

    def quantize(self, weights: Float32) -> Bytes:
        """The nearest levels on the scale that fits a block best, as it is stored."""
        if self.zero_points:
            raise ValueError(f"{self.name} is only read: name a format without zero points, such as int{self.bits}-128")
        blocks = weights.reshape(len(weights), -1, self.block_size)
        best = fit_symmetric(np.ascontiguousarray(blocks.reshape(-1, self.block_size).T), self.zero)
        d = best.reshape(*blocks.shape[:-1], 1).astype(self.scale_type)
        levels = np.rint(blocks * reciprocal(wide(d))) + np.float32(self.zero)
        return file_rows(d, pack(np.clip(levels, 0, 2 * self.zero - 1).astype(np.uint8), self.bits))
