"""The K formats of GGML: super-blocks of 256 columns with small integer scales for each 16 or 32 of them."""

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
    nibbles_together,
    octets,
    pack,
    regroup,
    scaled,
    unpack_apart,
    wide,
)
from .kquants import quantize_q2_k, quantize_q3_k, quantize_q4_k, quantize_q5_k, quantize_q6_k


class Q2_K(Format):  # noqa: N801 - the format's name
    """w = d · (scale & 15) · q - dmin · (scale >> 4), 2 bits, 16 columns a scale; relaid to q + 6 in 4 bits."""

    name = "Q2_K"
    block_size, nbits_block = 256, 16
    type_size = 84
    bits, zero = 4, 6
    planes = (
        PlaneSpec("q", "uint8", 64),
        PlaneSpec("scale", "uint8", 16),
        PlaneSpec("d", "float16", 1),
        PlaneSpec("dmin", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        d, dmin = halves(blocks[..., 80:82]), halves(blocks[..., 82:])
        return {"q": _pair_halves(blocks[..., 16:80]), "scale": blocks[..., :16], "d": d, "dmin": dmin}

    def widen(self, planes: Planes) -> Widened:
        scale = octets(planes["scale"])
        return Widened(
            regroup(_pairs(planes["q"], 0x33) + np.uint8(0x66), 8),
            scaled(planes["d"], scale & np.uint8(15)),
            -scaled(planes["dmin"], scale >> np.uint8(4)),
        )

    def quantize(self, weights: Float32) -> Bytes:
        return quantize_q2_k(weights)


class Q3_K(Format):  # noqa: N801
    """w = d · (scale - 32) · (q - 4), 3 bits, 16 columns a 6-bit scale; relaid to q + 4 in 4 bits.

    scale: 16 low nibbles in 8 bytes, then their high 2 bits in 4 bytes.
    """

    name = "Q3_K"
    block_size, nbits_block = 256, 16
    type_size = 110
    bits, zero = 4, 8
    planes = (
        PlaneSpec("low", "uint8", 64),
        PlaneSpec("high", "uint8", 32),
        PlaneSpec("scale", "uint8", 12),
        PlaneSpec("d", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        return {
            "low": _pair_halves(blocks[..., 32:96]),
            "high": _pair_bits(blocks[..., :32]),
            "scale": blocks[..., 96:108],
            "d": halves(blocks[..., 108:]),
        }

    def widen(self, planes: Planes) -> Widened:
        levels = _pairs(planes["low"], 0x33) | (_pairs(planes["high"], 0x11) << np.uint8(2))
        packed = octets(planes["scale"])
        scale = unpack_apart(packed[..., :8], 4) | (unpack_apart(packed[..., 8:], 2) << np.uint8(4))
        return Widened(regroup(levels + np.uint8(0x44), 8), scaled(planes["d"], wide(scale) - np.float32(32)))

    def quantize(self, weights: Float32) -> Bytes:
        return quantize_q3_k(weights)


class Q4_K(Format):  # noqa: N801
    """w = d · sc · q - dmin · m, 4 bits, 32 columns a pair of 6-bit sc and m (12 bytes, see `_six_bits`)."""

    name = "Q4_K"
    block_size, nbits_block = 256, 32
    type_size = 144
    bits, zero = 4, 0
    planes = (
        PlaneSpec("q", "uint8", 128),
        PlaneSpec("scale", "uint8", 12),
        PlaneSpec("d", "float16", 1),
        PlaneSpec("dmin", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        q = nibbles_together(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32))
        d, dmin = halves(blocks[..., :2]), halves(blocks[..., 2:4])
        return {"q": q.reshape(*blocks.shape[:2], 128), "scale": blocks[..., 4:16], "d": d, "dmin": dmin}

    def widen(self, planes: Planes) -> Widened:
        return Widened(regroup(octets(planes["q"]), 16), *_scales_and_minima(planes))

    def quantize(self, weights: Float32) -> Bytes:
        return quantize_q4_k(weights)


class Q5_K(Format):  # noqa: N801
    """w = d · sc · q - dmin · m as Q4_K, 5 bits; relaid to q + 112 in 8 bits."""

    name = "Q5_K"
    block_size, nbits_block = 256, 32
    type_size = 176
    bits, zero = 8, 112
    planes = (
        PlaneSpec("low", "uint8", 128),
        PlaneSpec("high", "uint8", 32),
        PlaneSpec("scale", "uint8", 12),
        PlaneSpec("d", "float16", 1),
        PlaneSpec("dmin", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        d, dmin = halves(blocks[..., :2]), halves(blocks[..., 2:4])
        low, high, scale = blocks[..., 48:], blocks[..., 16:48], blocks[..., 4:16]
        return {"low": low, "high": high, "scale": scale, "d": d, "dmin": dmin}

    def widen(self, planes: Planes) -> Widened:
        low = regroup(unpack_apart(regroup(octets(planes["low"]), 32), 4), 32)
        high = regroup(unpack_apart(octets(planes["high"]), 1), 32)
        return Widened((low | (high << np.uint8(4))) + np.uint8(112), *_scales_and_minima(planes))

    def quantize(self, weights: Float32) -> Bytes:
        return quantize_q5_k(weights)


class Q6_K(Format):  # noqa: N801
    """w = d · scale · (q - 32), 6 bits, 16 columns a signed 8-bit scale; relaid to q + 96 in 8 bits."""

    name = "Q6_K"
    block_size, nbits_block = 256, 16
    type_size = 210
    bits, zero = 8, 128
    planes = (
        PlaneSpec("low", "uint8", 128),
        PlaneSpec("high", "uint8", 64),
        PlaneSpec("scale", "int8", 16),
        PlaneSpec("d", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        scale = blocks[..., 192:208].view(np.int8)
        return {"low": blocks[..., :128], "high": blocks[..., 128:192], "scale": scale, "d": halves(blocks[..., 208:])}

    def widen(self, planes: Planes) -> Widened:
        low = unpack_apart(regroup(octets(planes["low"]), 64), 4)
        high = unpack_apart(regroup(octets(planes["high"]), 32), 2)
        levels = (low | (high << np.uint8(4))) + np.uint8(96)
        return Widened(regroup(levels, 16), scaled(planes["d"], planes["scale"]))

    def quantize(self, weights: Float32) -> Bytes:
        return quantize_q6_k(weights)


def _scales_and_minima(planes: Planes) -> tuple[Float32, Float32]:
    sc, m = _six_bits(octets(planes["scale"]))
    return scaled(planes["d"], sc), -scaled(planes["dmin"], m)


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """8 sc and 8 m. Bytes 0-3: sc 0-3; 4-7: m 0-3; 8-11: low nibbles of sc 4-7 and m 4-7.

    The upper 2 bits of bytes 0-7 are the upper bits of sc 4-7 and m 4-7.
    """
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    upper = [(each >> np.uint8(2)) & np.uint8(48) for each in (first, second)]
    sc = [first & np.uint8(63), third & np.uint8(15) | upper[0]]
    m = [second & np.uint8(63), third >> np.uint8(4) | upper[1]]
    return np.concatenate(sc, axis=-1), np.concatenate(m, axis=-1)


# In 4 bits two neighbours share a byte: bits 0-1 and 4-5 of it come from a 2-bit field, bits 0 and 4 from a 1-bit
# field. A plane keeps 2 or 4 such bytes in one, shifted, so that widening it is a shift and a mask.


def _pairs(plane: NDArray[np.generic], mask: int) -> Bytes:
    """Bytes of two fields each: mask 0x33 for 2-bit fields, 0x11 for 1-bit fields."""
    shifts = np.arange(0, 4, 2 if mask == 0x33 else 1, dtype=np.uint8)[:, None]
    parts = (octets(plane)[..., None, :] >> shifts) & np.uint8(mask)
    return parts.reshape(*plane.shape[:-1], -1)


def _pair_halves(file: Bytes) -> Bytes:
    """2-bit fields of a file (32 bytes: 4 x 32 columns) as a plane."""
    pairs = pack(unpack_apart(file.reshape(*file.shape[:-1], 2, 32), 2).reshape(*file.shape[:-1], 256), 4)
    return pairs[..., :64] | (pairs[..., 64:] << np.uint8(2))


def _pair_bits(file: Bytes) -> Bytes:
    """1-bit fields of a file (32 bytes: 8 x 32 columns) as a plane."""
    pairs = pack(unpack_apart(file, 1), 4).reshape(*file.shape[:-1], 4, 32)
    shifted: Bytes = pairs << np.arange(4, dtype=np.uint8)[:, None]
    first, second, third, fourth = np.split(shifted, 4, axis=-2)
    return (first | second | third | fourth)[..., 0, :]
