"""What a block format is: planes, what they widen to, and how small integers are packed into bytes.

A tensor of N rows and K columns is cut into blocks of `block_size` columns. Its *planes* are what the format keeps,
one array per field, first axis N: they are what the weight file holds.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Planes = dict[str, NDArray[np.generic]]
PlaneType = Literal["uint8", "int8", "uint16", "uint32", "float16", "float32"]


class NBits(NamedTuple):
    """y = x · ((q - zero) · scale)ᵀ + blocksum(x) · offsetᵀ, the form in which stock operators compute.

    q: uint8 (N, K / block, block · bits / 8), lowest bits first. scale: float32 (N, K / block).
    offset: float32 (N, K / block) or None. blocksum(x): the sum of x over each block.
    zero: uint8 (N, K / block), or None for 2^(bits-1).
    """

    bits: int
    block_size: int
    q: Bytes
    scale: Float32
    offset: Float32 | None
    zero: Bytes | None = None

    def dequantize(self) -> NDArray[np.float64]:
        """(N, K) in float64: the exact value of what the operators are given."""
        zero = 1 << (self.bits - 1) if self.zero is None else self.zero[..., None].astype(np.float64)
        blocks = (unpack(self.q, self.bits).astype(np.float64) - zero) * self.scale[..., None].astype(np.float64)
        if self.offset is not None:
            blocks += self.offset[..., None].astype(np.float64)
        return blocks.reshape(len(blocks), -1)

    def operands(self) -> Planes:
        """What the linear functions take: q, scale, and offset or zero points, packed, if there are any."""
        operands: Planes = {"q": self.q, "scale": self.scale}
        if self.offset is not None:
            operands["offset"] = self.offset
        if self.zero is not None:
            missing = -self.zero.shape[1] % (8 // self.bits)
            operands["zero"] = pack(np.pad(self.zero, ((0, 0), (0, missing))), self.bits)
        return operands


class PlaneSpec(NamedTuple):
    """One plane: its element type and how many elements each block has (1: the axis is left out)."""

    name: str
    dtype: PlaneType
    per_block: int


class Widened(NamedTuple):
    """w = (q - zero) · scale + minimum, with q as in `NBits`; zero is the format's where it is None here."""

    q: Bytes
    scale: Float32
    minimum: Float32 | None = None
    zero: Bytes | None = None


class Format(Protocol):
    """A block format. Planes are named and ordered as in `planes`.

    `block_size` and `type_size` are columns and bytes of one block in a file; `bits` and `nbits_block` describe
    what it is relaid to, where the level `zero` stands for a weight of 0, or of the block's minimum.
    """

    name: str
    block_size: int
    type_size: int
    bits: int
    nbits_block: int
    zero: int
    planes: tuple[PlaneSpec, ...]

    def split(self, raw: Bytes) -> Planes:
        """Planes of the rows of a file; raw: (N, bytes per row)."""

    def widen(self, planes: Planes) -> Widened:
        """What the planes stand for, block by block of `nbits_block` columns."""

    def dequantize(self, planes: Planes) -> Float32:
        """The reference meaning, (N, K), in float32 arithmetic: bit for bit what the reference dequantizer gives."""
        q, scale, minimum, zero = self.widen(planes)
        centre = np.float32(self.zero) if zero is None else wide(zero)[..., None]
        rows = (wide(unpack(q, self.bits)) - centre) * scale[..., None]
        if minimum is not None:
            rows += minimum[..., None]
        return rows.reshape(len(rows), -1)

    def nbits(self, planes: Planes) -> NBits:
        """The exact relayout for MatMulNBits, whose zero is the middle of the levels."""
        q, scale, minimum, zero = self.widen(planes)
        middle = np.float32((1 << (self.bits - 1)) - self.zero)
        offset = None if minimum is None else minimum + scale * middle
        return NBits(self.bits, self.nbits_block, q, scale, offset, zero)

    def quantize(self, weights: Float32) -> Bytes:
        """Rows of a file, (N, bytes per row), rounded as the reference quantizer does it."""
        raise ValueError(f"{self.name} cannot be made here, only read; got weights of shape {weights.shape}")


def pack(levels: Bytes, bits: int) -> Bytes:
    """(..., n) values below 2^bits to (..., n · bits / 8) bytes, lowest bits first."""
    packed = levels[..., 0 :: 8 // bits].copy()
    for i in range(1, 8 // bits):
        packed |= levels[..., i :: 8 // bits] << np.uint8(i * bits)
    return packed


def unpack(packed: Bytes, bits: int) -> Bytes:
    """(..., n) bytes to (..., n · 8 / bits) values, neighbours from one byte, lowest bits first."""
    parts = packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)
    return (parts & np.uint8((1 << bits) - 1)).reshape(*packed.shape[:-1], -1)


def unpack_apart(packed: Bytes, bits: int) -> Bytes:
    """(..., n) bytes to (..., n · 8 / bits) values: the lowest bits of all bytes, then their next bits, and so on."""
    parts = packed[..., None, :] >> np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (parts & np.uint8((1 << bits) - 1)).reshape(*packed.shape[:-1], -1)


def pack_apart(levels: Bytes, bits: int) -> Bytes:
    """The inverse of `unpack_apart`."""
    parts = np.split(levels, 8 // bits, axis=-1)
    packed = parts[0].copy()
    for i, part in enumerate(parts[1:], 1):
        packed |= part << np.uint8(i * bits)
    return packed


def nibbles_together(apart: Bytes) -> Bytes:
    """Nibbles j and j + n of (..., n) bytes, which share a byte in files, to neighbours 2j and 2j + 1 in a byte."""
    even, odd = apart[..., 0::2], apart[..., 1::2]
    low = (even & np.uint8(15)) | (odd << np.uint8(4))
    high = (even >> np.uint8(4)) | (odd & np.uint8(0xF0))
    return np.concatenate([low, high], axis=-1)


def nibbles_apart(together: Bytes) -> Bytes:
    """The inverse of `nibbles_together`."""
    return pack_apart(unpack(together, 4), 4)


def blocks_of(raw: Bytes, type_size: int) -> Bytes:
    """(N, bytes per row) to (N, blocks, type_size)"""
    return raw.reshape(len(raw), -1, type_size)


def halves(raw: Bytes) -> NDArray[np.float16]:
    """(..., 2) bytes to (...) numbers."""
    return np.ascontiguousarray(raw).view(np.float16)[..., 0]


def wide(plane: NDArray[np.generic]) -> Float32:
    return plane.astype(np.float32)


def octets(plane: NDArray[np.generic]) -> Bytes:
    return plane.astype(np.uint8, copy=False)


def regroup(plane: Bytes, size: int) -> Bytes:
    """(N, blocks, n) to (N, blocks · n / size, size)"""
    return plane.reshape(len(plane), -1, size)


def scaled(d: NDArray[np.generic], factors: NDArray[np.generic]) -> Float32:
    """d · factor of each block, (N, blocks) and (N, blocks, n) to (N, blocks · n)

    Exact in float32: d has 11 bits, factors have at most 8.
    """
    return (wide(d)[..., None] * wide(factors)).reshape(len(d), -1)


def reciprocal(scale: Float32) -> Float32:
    with np.errstate(divide="ignore"):
        return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def away_from_zero(values: Float32) -> Float32:
    """The nearest integers; halves go away from zero, as C's roundf."""
    whole: Float32 = np.trunc(values)
    above_half: Float32 = np.trunc(np.float32(2) * (values - whole))
    return whole + above_half


def extremes(blocks: Float32) -> Float32:
    """The value of the largest magnitude of each block, with its sign, (..., 1)"""
    return np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], axis=-1)


def file_rows(*fields: NDArray[np.generic]) -> Bytes:
    """The fields of each block are joined byte by byte, the blocks of each row too."""
    parts = [np.ascontiguousarray(field).view(np.uint8) for field in fields]
    return np.concatenate(parts, axis=-1).reshape(len(fields[0]), -1)
