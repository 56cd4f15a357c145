"""The formats of GGML whose levels are looked up (IQ4_NL, IQ4_XS, MXFP4) or ternary (TQ1_0, TQ2_0)."""

from __future__ import annotations

import numpy as np

from .formats_block import (
    Bytes,
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
    unpack,
    unpack_apart,
    wide,
)


def _pairs(*levels: int) -> Bytes:
    """(256, 2): the two levels of a byte, + 128"""
    centred = np.array(levels) + 128
    return centred.astype(np.uint8)[unpack(np.arange(256, dtype=np.uint8)[:, None], 4)]


IQ4_PAIRS = _pairs(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MXFP4_PAIRS = _pairs(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # halves
# Of a byte e: half of 2^(e - 127), because the levels are halves; the first two are subnormal.
MXFP4_SCALES = np.ldexp(np.float32(1), np.arange(256) - 128)
# (256, 5): the first ternary digits of the fraction byte / 256.
TERNARY = (np.arange(256)[:, None] * 3 ** np.arange(5) % 256 * 3 // 256).astype(np.uint8)


class IQ4_NL(Format):  # noqa: N801 - the format's name
    """w = d · IQ4[q], 4 bits, blocks of 32; relaid to 8 bits."""

    name = "IQ4_NL"
    block_size = nbits_block = 32
    type_size = 18
    bits, zero = 8, 128
    planes = (PlaneSpec("q", "uint8", 16), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        return {"q": nibbles_together(blocks[..., 2:]), "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        return Widened(regroup(IQ4_PAIRS[octets(planes["q"])], 32), wide(planes["d"]))


class IQ4_XS(Format):  # noqa: N801
    """w = d · (scale - 32) · IQ4[q], 4 bits, 32 columns a 6-bit scale; relaid to 8 bits."""

    name = "IQ4_XS"
    block_size, nbits_block = 256, 32
    type_size = 136
    bits, zero = 8, 128
    planes = (
        PlaneSpec("q", "uint8", 128),
        PlaneSpec("scale_low", "uint8", 4),
        PlaneSpec("scale_high", "uint8", 2),
        PlaneSpec("d", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        q = nibbles_together(blocks[..., 8:].reshape(*blocks.shape[:2], 8, 16)).reshape(*blocks.shape[:2], 128)
        low, high = blocks[..., 4:8], blocks[..., 2:4]
        return {"q": q, "scale_low": low, "scale_high": high, "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        high = unpack(octets(planes["scale_high"]), 2) << np.uint8(4)
        scale = wide(unpack(octets(planes["scale_low"]), 4) | high) - np.float32(32)
        return Widened(regroup(IQ4_PAIRS[octets(planes["q"])], 32), scaled(planes["d"], scale))


class MXFP4(Format):
    """w = 2^(e - 128) · FP4[q], 4 bits, blocks of 32; relaid to 8 bits."""

    name = "MXFP4"
    block_size = nbits_block = 32
    type_size = 17
    bits, zero = 8, 128
    planes = (PlaneSpec("q", "uint8", 16), PlaneSpec("e", "uint8", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        return {"q": nibbles_together(blocks[..., 1:]), "e": blocks[..., 0]}

    def widen(self, planes: Planes) -> Widened:
        return Widened(regroup(MXFP4_PAIRS[octets(planes["q"])], 32), MXFP4_SCALES[octets(planes["e"])])


class TQ1_0(Format):  # noqa: N801
    """w = d · (q - 1), 5 ternary digits a byte, blocks of 256; relaid to q + 1 in 2 bits.

    q: 32 bytes with digits of columns j, j + 32, ..., then 16 with steps of 16, then 4 of four digits.
    """

    name = "TQ1_0"
    block_size, nbits_block = 256, 128
    type_size = 54
    bits, zero = 2, 2
    planes = (PlaneSpec("q", "uint8", 52), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        return {"q": blocks[..., :52], "d": halves(blocks[..., 52:])}

    def widen(self, planes: Planes) -> Widened:
        digits = np.swapaxes(TERNARY[octets(planes["q"])], -1, -2)  # (N, blocks, 5, 52)
        parts = (digits[..., :32], digits[..., 32:48], digits[..., :4, 48:])
        levels = np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=-1)
        return Widened(regroup(pack(levels + np.uint8(1), 2), 32), np.repeat(wide(planes["d"]), 2, axis=1))


class TQ2_0(Format):  # noqa: N801
    """w = d · (q - 1), 2 bits, blocks of 256. All four levels may occur, so their zero point is 1."""

    name = "TQ2_0"
    block_size, nbits_block = 256, 128
    type_size = 66
    bits, zero = 2, 1
    planes = (PlaneSpec("q", "uint8", 64), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        levels = unpack_apart(blocks[..., :64].reshape(*blocks.shape[:2], 2, 32), 2)
        return {"q": pack(levels.reshape(*blocks.shape[:2], 256), 2), "d": halves(blocks[..., 64:])}

    def widen(self, planes: Planes) -> Widened:
        scale = np.repeat(wide(planes["d"]), 2, axis=1)
        return Widened(regroup(octets(planes["q"]), 32), scale, zero=np.ones(scale.shape, np.uint8))
