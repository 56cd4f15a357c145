"""The formats of GGML with one scale per block: the _0 and _1 families, and Q8_K."""

from __future__ import annotations

import numpy as np

from .formats_block import (
    Bytes,
    Float32,
    Format,
    Planes,
    PlaneSpec,
    Widened,
    away_from_zero,
    blocks_of,
    extremes,
    file_rows,
    halves,
    nibbles_apart,
    nibbles_together,
    octets,
    pack,
    pack_apart,
    reciprocal,
    unpack,
    unpack_apart,
    wide,
)


class Q4_0(Format):  # noqa: N801 - the format's name
    """w = d · (q - 8), 4 bits, blocks of 32."""

    name = "Q4_0"
    block_size = nbits_block = 32
    type_size = 18
    bits, zero = 4, 8
    planes = (PlaneSpec("q", "uint8", 16), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        return {"q": nibbles_together(blocks[..., 2:]), "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        return Widened(octets(planes["q"]), wide(planes["d"]))

    def quantize(self, weights: Float32) -> Bytes:
        d, q = _signed_levels(weights, 4)
        return file_rows(d.astype(np.float16), nibbles_apart(pack(q, 4)))


class Q4_1(Format):  # noqa: N801
    """w = d · q + m, 4 bits, blocks of 32."""

    name = "Q4_1"
    block_size = nbits_block = 32
    type_size = 20
    bits, zero = 4, 0
    planes = (
        PlaneSpec("q", "uint8", 16),
        PlaneSpec("d", "float16", 1),
        PlaneSpec("m", "float16", 1),
    )

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        return {"q": nibbles_together(blocks[..., 4:]), "d": halves(blocks[..., :2]), "m": halves(blocks[..., 2:4])}

    def widen(self, planes: Planes) -> Widened:
        return Widened(octets(planes["q"]), wide(planes["d"]), wide(planes["m"]))

    def quantize(self, weights: Float32) -> Bytes:
        d, m, q = _levels_above_minimum(weights, 4)
        return file_rows(d.astype(np.float16), m.astype(np.float16), nibbles_apart(pack(q, 4)))


class Q5_0(Format):  # noqa: N801
    """w = d · (q - 16), 5 bits, blocks of 32; relaid to q + 112 in 8 bits."""

    name = "Q5_0"
    block_size = nbits_block = 32
    type_size = 22
    bits, zero = 8, 128
    planes = (PlaneSpec("low", "uint8", 16), PlaneSpec("high", "uint8", 4), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        return {"low": blocks[..., 6:], "high": blocks[..., 2:6], "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        return Widened(_five_bits(planes), wide(planes["d"]))

    def quantize(self, weights: Float32) -> Bytes:
        d, q = _signed_levels(weights, 5)
        return file_rows(d.astype(np.float16), *_split_five_bits(q))


class Q5_1(Format):  # noqa: N801
    """w = d · q + m, 5 bits, blocks of 32; relaid to q + 112 in 8 bits."""

    name = "Q5_1"
    block_size = nbits_block = 32
    type_size = 24
    bits, zero = 8, 112
    planes = (*Q5_0.planes, PlaneSpec("m", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        d, m = halves(blocks[..., :2]), halves(blocks[..., 2:4])
        return {"low": blocks[..., 8:], "high": blocks[..., 4:8], "d": d, "m": m}

    def widen(self, planes: Planes) -> Widened:
        return Widened(_five_bits(planes), wide(planes["d"]), wide(planes["m"]))

    def quantize(self, weights: Float32) -> Bytes:
        d, m, q = _levels_above_minimum(weights, 5)
        return file_rows(d.astype(np.float16), m.astype(np.float16), *_split_five_bits(q))


class Q8_0(Format):  # noqa: N801
    """w = d · q, signed 8 bits, blocks of 32; the plane holds q + 128."""

    name = "Q8_0"
    block_size = nbits_block = 32
    type_size = 34
    bits, zero = 8, 128
    planes = (PlaneSpec("q", "uint8", 32), PlaneSpec("d", "float16", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        return {"q": blocks[..., -32:] ^ np.uint8(128), "d": halves(blocks[..., :2])}

    def widen(self, planes: Planes) -> Widened:
        return Widened(octets(planes["q"]), wide(planes["d"]))

    def quantize(self, weights: Float32) -> Bytes:
        d, q = _bytes_of(weights)
        return file_rows(d.astype(np.float16), q)


class Q8_1(Q8_0):  # noqa: N801
    """w = d · q as Q8_0; a file also has s, the sum of the block, which nothing here needs."""

    name = "Q8_1"
    type_size = 36

    def quantize(self, weights: Float32) -> Bytes:
        d, q = _bytes_of(weights)
        with np.errstate(over="ignore"):  # infinite sums of large blocks, as in the reference
            s = (d * wide(q.view(np.int8).sum(-1, keepdims=True, dtype=np.int32))).astype(np.float16)
        return file_rows(d.astype(np.float16), s, q)


class Q8_K(Format):  # noqa: N801
    """w = d · q, signed 8 bits, blocks of 256, float32 d; the plane holds q + 128. Sums of 16 in a file are ignored."""

    name = "Q8_K"
    block_size = nbits_block = 256
    type_size = 292
    bits, zero = 8, 128
    planes = (PlaneSpec("q", "uint8", 256), PlaneSpec("d", "float32", 1))

    def split(self, raw: Bytes) -> Planes:
        blocks = blocks_of(raw, self.type_size)
        d = np.ascontiguousarray(blocks[..., :4]).view(np.float32)[..., 0]
        return {"q": blocks[..., 4:260] ^ np.uint8(128), "d": d}

    def widen(self, planes: Planes) -> Widened:
        return Widened(octets(planes["q"]), wide(planes["d"]))

    def quantize(self, weights: Float32) -> Bytes:
        """The extreme becomes -127; the reference rounds halves to even here."""
        blocks = weights.reshape(len(weights), -1, 256)
        inverse = np.float32(-127) * reciprocal(extremes(blocks))
        q = np.minimum(np.rint(blocks * inverse), 127).astype(np.int8)
        sums = q.reshape(*q.shape[:2], 16, 16).sum(-1, dtype=np.int16)
        return file_rows(reciprocal(inverse), q, sums)


def _five_bits(planes: Planes) -> Bytes:
    """q + 112: the middle of five bits becomes the middle of eight."""
    low, high = unpack_apart(octets(planes["low"]), 4), unpack(octets(planes["high"]), 1)
    return (low | (high << np.uint8(4))) + np.uint8(112)


def _split_five_bits(q: Bytes) -> tuple[Bytes, Bytes]:
    return pack(q >> np.uint8(4), 1), pack_apart(q & np.uint8(15), 4)


def _signed_levels(weights: Float32, bits: int) -> tuple[Float32, Bytes]:
    """d and q of w = d · (q - 2^(bits-1)), where the extreme has q = 0."""
    middle = 1 << (bits - 1)
    blocks = weights.reshape(len(weights), -1, 32)
    d = extremes(blocks) / np.float32(-middle)
    return d, _rounded(blocks * reciprocal(d) + np.float32(middle + 0.5), bits)


def _levels_above_minimum(weights: Float32, bits: int) -> tuple[Float32, Float32, Bytes]:
    blocks = weights.reshape(len(weights), -1, 32)
    m = blocks.min(-1, keepdims=True)
    d = (blocks.max(-1, keepdims=True) - m) / np.float32((1 << bits) - 1)
    return d, m, _rounded((blocks - m) * reciprocal(d) + np.float32(0.5), bits)


def _bytes_of(weights: Float32) -> tuple[Float32, Bytes]:
    blocks = weights.reshape(len(weights), -1, 32)
    d = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    return d, away_from_zero(blocks * reciprocal(d)).astype(np.int8).view(np.uint8)


def _rounded(values: Float32, bits: int) -> Bytes:
    return np.minimum(np.trunc(values), (1 << bits) - 1).astype(np.uint8)
