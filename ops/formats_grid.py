"""The IQ1, IQ2 and IQ3 formats of GGML: indices into grids of small numbers, signs beside them; relaid to 8 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .formats_block import (
    Bytes,
    Float32,
    Format,
    Planes,
    PlaneSpec,
    Widened,
    blocks_of,
    halves,
    octets,
    pack,
    regroup,
    scaled,
    unpack,
    wide,
)
from .formats_grids import EVEN_SIGNS, GRIDS, SIGNS

SEVENS = np.array([0, 7, 14, 21], np.uint32)  # four sign indices of 7 bits; 4 bits of scale are above them
THREES = np.array([0, 3, 6, 9], np.uint16)


class IQ2_XXS(Format):  # noqa: N801 - the format's name
    """w = d · (scale + 1/2) / 4 · ±grid[index], 8 columns an index of 8 bits, 32 a scale of 4 bits."""

    name = "IQ2_XXS"
    block_size, nbits_block = 256, 32
    type_size = 66
    bits, zero = 8, 128
    planes = (PlaneSpec("index", "uint8", 32), PlaneSpec("sign", "uint32", 8), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        fields = blocks[..., 2:].reshape(*blocks.shape[:2], 8, 8)
        index, sign = fields[..., :4].reshape(*blocks.shape[:2], 32), fields[..., 4:]
        return {"index": index, "sign": _numbers(sign, np.uint32)[..., 0], "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        signs, scale = _sevens(planes["sign"])
        levels = _signed(GRIDS["IQ2_XXS"][octets(planes["index"])], signs)
        return Widened(regroup(levels, 32), scaled(planes["d"], (wide(scale) + np.float32(0.5)) * np.float32(0.25)))


class IQ2_XS(Format):  # noqa: N801
    """w = d · (scale + 1/2) / 4 · ±grid[index], 8 columns 9 bits of index and 7 of signs, 16 a scale of 4 bits."""

    name = "IQ2_XS"
    block_size, nbits_block = 256, 16
    type_size = 74
    bits, zero = 8, 128
    planes = (PlaneSpec("index", "uint16", 32), PlaneSpec("scale", "uint8", 8), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        index = _numbers(blocks[..., 2:66], np.uint16)
        return {"index": index, "scale": blocks[..., 66:], "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        index = planes["index"].astype(np.uint16)
        levels = _signed(GRIDS["IQ2_XS"][index & np.uint16(511)], EVEN_SIGNS[index >> np.uint16(9)])
        return Widened(regroup(levels, 16), _quarter_scales(planes))


class IQ2_S(Format):  # noqa: N801
    """w = d · (scale + 1/2) / 4 · ±grid[index], 8 columns an index of 10 bits and 8 signs, 16 a scale of 4 bits."""

    name = "IQ2_S"
    block_size, nbits_block = 256, 16
    type_size = 82
    bits, zero = 8, 128
    planes = (
        PlaneSpec("low", "uint8", 32),
        PlaneSpec("high", "uint8", 8),
        PlaneSpec("sign", "uint8", 32),
        PlaneSpec("scale", "uint8", 8),
        PlaneSpec("d", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        low, sign, high, scale = np.split(blocks[..., 2:], [32, 64, 72], axis=-1)
        return {"low": low, "high": high, "sign": sign, "scale": scale, "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        index = _index(planes["low"], unpack(octets(planes["high"]), 2))
        levels = _signed(GRIDS["IQ2_S"][index], SIGNS[octets(planes["sign"])])
        return Widened(regroup(levels, 16), _quarter_scales(planes))


class IQ3_XXS(Format):  # noqa: N801
    """w = d · (scale + 1/2) / 2 · ±grid[index], 4 columns an index of 8 bits, 32 a scale of 4 bits."""

    name = "IQ3_XXS"
    block_size, nbits_block = 256, 32
    type_size = 98
    bits, zero = 8, 128
    planes = (PlaneSpec("index", "uint8", 64), PlaneSpec("sign", "uint32", 8), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        sign = _numbers(blocks[..., 66:], np.uint32)
        return {"index": blocks[..., 2:66], "sign": sign, "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        signs, scale = _sevens(planes["sign"])
        levels = _signed(GRIDS["IQ3_XXS"][octets(planes["index"])], signs)
        return Widened(regroup(levels, 32), scaled(planes["d"], (wide(scale) + np.float32(0.5)) * np.float32(0.5)))


class IQ3_S(Format):  # noqa: N801
    """w = d · (1 + 2 scale) · ±grid[index], 4 columns an index of 9 bits, 8 of them 8 signs, 32 a scale of 4 bits."""

    name = "IQ3_S"
    block_size, nbits_block = 256, 32
    type_size = 110
    bits, zero = 8, 128
    planes = (
        PlaneSpec("low", "uint8", 64),
        PlaneSpec("high", "uint8", 8),
        PlaneSpec("sign", "uint8", 32),
        PlaneSpec("scale", "uint8", 4),
        PlaneSpec("d", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        low, high, sign, scale = np.split(blocks[..., 2:], [64, 72, 104], axis=-1)
        return {"low": low, "high": high, "sign": sign, "scale": scale, "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        index = _index(planes["low"], unpack(octets(planes["high"]), 1))
        levels = _signed(GRIDS["IQ3_S"][index], SIGNS[octets(planes["sign"])])
        odd = np.uint8(2) * unpack(octets(planes["scale"]), 4) + np.uint8(1)
        return Widened(regroup(levels, 32), scaled(planes["d"], odd))


class IQ1_S(Format):  # noqa: N801
    """w = d · (2 scale + 1) / 8 · (8 grid[index] ± 1), 8 columns an index of 11 bits, 32 a scale of 3 bits and a sign.

    high: the upper bits of four indices, 3 each, then the scale, then the sign.
    """

    name = "IQ1_S"
    block_size, nbits_block = 256, 32
    type_size = 50
    bits, zero = 8, 128
    planes = (PlaneSpec("low", "uint8", 32), PlaneSpec("high", "uint16", 8), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        high = _numbers(blocks[..., 34:], np.uint16)
        return {"low": blocks[..., 2:34], "high": high, "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        high = planes["high"].astype(np.uint16)
        upper = high[..., None] >> THREES & np.uint16(7)
        levels = GRIDS["IQ1"][_index(planes["low"], octets(upper.reshape(*high.shape[:2], 32)))]
        nudged = regroup(levels, 32) + _nudges(octets(high >> np.uint16(15))).reshape(len(levels), -1, 1)
        return Widened(nudged, _eighth_scales(planes["d"], octets(high >> np.uint16(12) & np.uint16(7))))


class IQ1_M(Format):  # noqa: N801
    """w = d · (2 scale + 1) / 8 · (8 grid[index] ± 1), 8 columns an index of 11 bits and a sign, 16 a scale of 3 bits.

    high: nibbles of 3 upper bits of an index and the sign. A file spreads d over the tops of the words of scales.
    """

    name = "IQ1_M"
    block_size, nbits_block = 256, 16
    type_size = 56
    bits, zero = 8, 128
    planes = (
        PlaneSpec("low", "uint8", 32),
        PlaneSpec("high", "uint8", 16),
        PlaneSpec("scale_low", "uint8", 4),
        PlaneSpec("scale_high", "uint8", 2),
        PlaneSpec("d", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        words = _numbers(blocks[..., 48:], np.uint16).astype(np.uint16)
        tops = words >> np.uint16(12) << np.array([0, 4, 8, 12], np.uint16)
        d = (tops[..., 0] | tops[..., 1] | tops[..., 2] | tops[..., 3]).view(np.float16)
        scale = octets(words[..., None] >> THREES & np.uint16(7)).reshape(*words.shape[:2], 16)
        low, high = pack(scale & np.uint8(3), 2), pack(scale >> np.uint8(2), 1)
        return {"low": blocks[..., :32], "high": blocks[..., 32:48], "scale_low": low, "scale_high": high, "d": d}

    def widen(self, planes: Planes) -> Widened:
        high = unpack(octets(planes["high"]), 4)
        levels = GRIDS["IQ1"][_index(planes["low"], high & np.uint8(7))] + _nudges(high >> np.uint8(3))[..., None]
        scale_high = unpack(octets(planes["scale_high"]), 1) << np.uint8(2)
        scale = unpack(octets(planes["scale_low"]), 2) | scale_high
        return Widened(regroup(levels, 16), _eighth_scales(planes["d"], scale))


def _numbers(raw: Bytes, kind: type[np.uint16 | np.uint32]) -> NDArray[np.generic]:
    return np.ascontiguousarray(raw).view(kind)


def _index(low: NDArray[np.generic], high: Bytes) -> NDArray[np.uint16]:
    return low.astype(np.uint16) | (high.astype(np.uint16) << np.uint16(8))


def _signed(magnitudes: Bytes, signs: Bytes) -> Bytes:
    """128 ± magnitude, in the arithmetic of bytes."""
    return magnitudes.reshape(signs.shape) * signs + np.uint8(128)


def _nudges(bits: Bytes) -> Bytes:
    """1, or 255 for -1 where a bit is set."""
    return bits * np.uint8(254) + np.uint8(1)


def _sevens(words: NDArray[np.generic]) -> tuple[Bytes, Bytes]:
    """Signs of 32 columns, (N, blocks, 32, 8), and their 4 bits of scale."""
    numbers = words.astype(np.uint32)
    index = numbers[..., None] >> SEVENS & np.uint32(127)
    return EVEN_SIGNS[index.reshape(*numbers.shape[:2], 32)], octets(numbers >> np.uint32(28))


def _quarter_scales(planes: Planes) -> Float32:
    scale = wide(unpack(octets(planes["scale"]), 4)) + np.float32(0.5)
    return scaled(planes["d"], scale * np.float32(0.25))


def _eighth_scales(d: NDArray[np.generic], scale: Bytes) -> Float32:
    return scaled(d, wide(np.uint8(2) * scale + np.uint8(1)) * np.float32(0.125))
