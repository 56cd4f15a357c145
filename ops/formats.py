"""Block formats of quantized weights: what their planes mean, and their exact relayout for MatMulNBits.

A tensor of N rows and K columns is cut into blocks of `block_size` columns. Its *planes* are what the format keeps,
one array per field, first axis N: they are what the weight file holds. Sources: the struct definitions of GGML.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Planes = dict[str, NDArray[np.generic]]


class NBits(NamedTuple):
    """y = x · ((q - 2^(bits-1)) · scale)ᵀ + blocksum(x) · offsetᵀ, the form in which stock operators compute.

    q: uint8 (N, K / block, block · bits / 8), lowest bits first. scale: float32 (N, K / block).
    offset: float32 (N, K / block) or None. blocksum(x): the sum of x over each block.
    """

    bits: int
    block_size: int
    q: Bytes
    scale: Float32
    offset: Float32 | None

    def dequantize(self) -> NDArray[np.float64]:
        """(N, K) in float64: the exact value of what the operators are given."""
        levels = unpack_nibbles(self.q) if self.bits == 4 else self.q
        centred = levels.astype(np.float64) - (1 << (self.bits - 1))
        blocks = centred * self.scale[..., None].astype(np.float64)
        if self.offset is not None:
            blocks += self.offset[..., None].astype(np.float64)
        return blocks.reshape(len(blocks), -1)


class PlaneSpec(NamedTuple):
    """One plane: its element type and how many elements each block has (1: the axis is left out)."""

    name: str
    dtype: Literal["uint8", "float16"]
    per_block: int


class Format(Protocol):
    """A block format. Planes are named and ordered as in `planes`."""

    name: ClassVar[str]
    block_size: ClassVar[int]
    type_size: ClassVar[int]  # bytes of one block in a file
    bits: ClassVar[int]  # of what it is relaid to
    planes: ClassVar[tuple[PlaneSpec, ...]]

    def split(self, raw: Bytes) -> Planes:
        """Planes of the rows of a file; raw: (N, bytes per row)."""

    def dequantize(self, planes: Planes) -> Float32:
        """The reference meaning, (N, K), in float32 arithmetic as the reference dequantizer does it."""

    def nbits(self, planes: Planes) -> NBits: ...

    def quantize(self, weights: Float32) -> Bytes:
        """Rows of a file, (N, bytes per row), rounded as the reference quantizer does it."""


def pack_nibbles(levels: Bytes) -> Bytes:
    """(..., n) values below 16 to (..., n / 2) bytes, the earlier value in the low half."""
    return levels[..., 0::2] | (levels[..., 1::2] << np.uint8(4))


def unpack_nibbles(packed: Bytes) -> Bytes:
    return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(*packed.shape[:-1], -1)


def _blocks(raw: Bytes, type_size: int) -> Bytes:
    return raw.reshape(len(raw), -1, type_size)


def _half(raw: Bytes) -> NDArray[np.float16]:
    return np.ascontiguousarray(raw).view(np.float16)[..., 0]


def _wide(plane: NDArray[np.generic]) -> Float32:
    return plane.astype(np.float32)


def _halves_together(raw: Bytes) -> Bytes:
    """GGML keeps element j and j + 16 of a block in byte j; MatMulNBits keeps 2j and 2j + 1."""
    return pack_nibbles(np.concatenate([raw & np.uint8(15), raw >> np.uint8(4)], axis=-1))


def _halves_apart(packed: Bytes) -> Bytes:
    levels = unpack_nibbles(packed)
    return levels[..., :16] | (levels[..., 16:] << np.uint8(4))


def _rounded(values: Float32, largest: int) -> Bytes:
    return np.minimum(np.trunc(values), largest).astype(np.uint8)


def _reciprocal(scale: Float32) -> Float32:
    with np.errstate(divide="ignore"):
        return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


class Q4_0(Format):  # noqa: N801 - the format's name
    """w = d · (q - 8), 4 bits, blocks of 32."""

    name = "Q4_0"
    block_size = 32
    type_size = 18
    bits = 4
    planes = (PlaneSpec("q", "uint8", 16), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = _blocks(raw, self.type_size)
        return {"q": _halves_together(blocks[..., 2:]), "d": _half(blocks[..., :2])}

    def dequantize(self, planes: Planes) -> Float32:
        levels = unpack_nibbles(planes["q"].astype(np.uint8)).astype(np.float32) - np.float32(8)
        return (levels * _wide(planes["d"])[..., None]).reshape(len(levels), -1)

    def nbits(self, planes: Planes) -> NBits:
        return NBits(self.bits, self.block_size, planes["q"].astype(np.uint8), _wide(planes["d"]), None)

    def quantize(self, weights: Float32) -> Bytes:
        blocks = weights.reshape(len(weights), -1, 32)
        extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], axis=-1)
        d = extreme / np.float32(-8)
        q = _rounded(blocks * _reciprocal(d) + np.float32(8.5), 15)
        return _file_rows(d, _halves_apart(pack_nibbles(q)))


class Q4_1(Format):  # noqa: N801
    """w = d · q + m, 4 bits, blocks of 32. Centred: d · (q - 8) + (m + 8 d)."""

    name = "Q4_1"
    block_size = 32
    type_size = 20
    bits = 4
    planes = (
        PlaneSpec("q", "uint8", 16),
        PlaneSpec("d", "float16", 1),
        PlaneSpec("m", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = _blocks(raw, self.type_size)
        return {"q": _halves_together(blocks[..., 4:]), "d": _half(blocks[..., :2]), "m": _half(blocks[..., 2:4])}

    def dequantize(self, planes: Planes) -> Float32:
        levels = unpack_nibbles(planes["q"].astype(np.uint8)).astype(np.float32)
        return (levels * _wide(planes["d"])[..., None] + _wide(planes["m"])[..., None]).reshape(len(levels), -1)

    def nbits(self, planes: Planes) -> NBits:
        scale = _wide(planes["d"])
        offset = _wide(planes["m"]) + scale * np.float32(8)
        return NBits(self.bits, self.block_size, planes["q"].astype(np.uint8), scale, offset)

    def quantize(self, weights: Float32) -> Bytes:
        blocks = weights.reshape(len(weights), -1, 32)
        m = blocks.min(-1, keepdims=True)
        d = (blocks.max(-1, keepdims=True) - m) / np.float32(15)
        q = _rounded((blocks - m) * _reciprocal(d) + np.float32(0.5), 15)
        return _file_rows(d, m, _halves_apart(pack_nibbles(q)))


class Q8_0(Format):  # noqa: N801
    """w = d · q, signed 8 bits, blocks of 32; the plane holds q + 128."""

    name = "Q8_0"
    block_size = 32
    type_size = 34
    bits = 8
    planes = (PlaneSpec("q", "uint8", 32), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = _blocks(raw, self.type_size)
        return {"q": blocks[..., 2:] ^ np.uint8(128), "d": _half(blocks[..., :2])}

    def dequantize(self, planes: Planes) -> Float32:
        levels = planes["q"].astype(np.float32) - np.float32(128)
        return (levels * _wide(planes["d"])[..., None]).reshape(len(levels), -1)

    def nbits(self, planes: Planes) -> NBits:
        return NBits(self.bits, self.block_size, planes["q"].astype(np.uint8), _wide(planes["d"]), None)

    def quantize(self, weights: Float32) -> Bytes:
        blocks = weights.reshape(len(weights), -1, 32)
        d = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
        scaled = blocks * _reciprocal(d)
        q = np.trunc(np.abs(scaled) + np.float32(0.5)) * np.sign(scaled)  # half away from zero
        return _file_rows(d, q.astype(np.int8).view(np.uint8))


def _file_rows(*fields: NDArray[np.generic]) -> Bytes:
    """Float fields become float16; the fields of each block are joined, the blocks of each row too."""
    parts = [f.astype(np.float16).view(np.uint8) if f.dtype == np.float32 else f for f in fields]
    return np.concatenate(parts, axis=-1).reshape(len(fields[0]), -1).view(np.uint8)


FORMATS: dict[str, Format] = {f.name: f for f in (Q4_0(), Q4_1(), Q8_0())}
