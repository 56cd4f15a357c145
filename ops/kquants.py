"""Quantizers of GGML's K formats, from float32 rows to the bytes that a file keeps. Source: GGML's struct definitions.

A super-block of 256 weights holds 8 or 16 blocks. Each block gets a scale (and a minimum); the super-block keeps them
as small integers times a float16; levels are then rounded against what is kept. Errors of large weights count more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .kquants_search import Affine, Float32, fit_affine, fit_symmetric, importance, ratio

Bytes = NDArray[np.uint8]
Half = NDArray[np.float16]

SUPER_BLOCK = 256
TILE = 1024  # super-blocks at a time: more run out of the caches, fewer cost more calls


def quantize_q2_k(weights: Float32) -> Bytes:
    """(N, K) to (N, bytes): 2 bits, 16 blocks with 4-bit scales and minima. {scales[16], qs[64], d, dmin}."""
    return _by_tiles(weights, _q2_k)


def quantize_q3_k(weights: Float32) -> Bytes:
    """(N, K) to (N, bytes): 3 bits, 16 blocks with signed 6-bit scales. {hmask[32], qs[64], scales[12], d}."""
    return _by_tiles(weights, _q3_k)


def quantize_q4_k(weights: Float32) -> Bytes:
    """(N, K) to (N, bytes): 4 bits, 8 blocks with 6-bit scales and minima. {d, dmin, scales[12], qs[128]}."""
    return _by_tiles(weights, _q4_k)


def quantize_q5_k(weights: Float32) -> Bytes:
    """(N, K) to (N, bytes): 5 bits, 8 blocks with 6-bit scales and minima. {d, dmin, scales[12], qh[32], qs[128]}."""
    return _by_tiles(weights, _q5_k)


def quantize_q6_k(weights: Float32) -> Bytes:
    """(N, K) to (N, bytes): 6 bits, 16 blocks with signed 8-bit scales. {ql[128], qh[64], scales[16], d}."""
    return _by_tiles(weights, _q6_k)


def _by_tiles(weights: Float32, quantize: Callable[[Float32], Bytes]) -> Bytes:
    supers = weights.reshape(-1, SUPER_BLOCK)
    tiles = [quantize(supers[start : start + TILE]) for start in range(0, len(supers), TILE)]
    return np.concatenate(tiles).reshape(len(weights), -1)


def _q2_k(supers: Float32) -> Bytes:
    kept = _round_affine(_blocks(supers, 16), top=3, largest=15)
    return _joined(kept.sc | kept.m << np.uint8(4), _merge(kept.levels.reshape(-1, 2, 4, 32), 2), kept.d, kept.dmin)


def _q3_k(supers: Float32) -> Bytes:
    kept = _round_symmetric(_blocks(supers, 16), half=4, largest=32)
    sc = (kept.sc + 32).astype(np.uint8)
    scales = _merge(_low(sc, 4).reshape(-1, 2, 8), 4), _merge(_high(sc, 4).reshape(-1, 4, 4), 2)
    qs, hmask = _low(kept.levels, 2).reshape(-1, 2, 4, 32), _high(kept.levels, 2).reshape(-1, 8, 32)
    return _joined(_merge(hmask, 1), _merge(qs, 2), *scales, kept.d)


def _q4_k(supers: Float32) -> Bytes:
    kept = _round_affine(_blocks(supers, 32), top=15, largest=63)
    return _joined(kept.d, kept.dmin, _six_bits(kept.sc, kept.m), _merge(kept.levels.reshape(-1, 4, 2, 32), 4))


def _q5_k(supers: Float32) -> Bytes:
    kept = _round_affine(_blocks(supers, 32), top=31, largest=63)
    qs, qh = _low(kept.levels, 4).reshape(-1, 4, 2, 32), _high(kept.levels, 4).reshape(-1, 8, 32)
    return _joined(kept.d, kept.dmin, _six_bits(kept.sc, kept.m), _merge(qh, 1), _merge(qs, 4))


def _q6_k(supers: Float32) -> Bytes:
    kept = _round_symmetric(_blocks(supers, 16), half=32, largest=128)
    ql, qh = _low(kept.levels, 4).reshape(-1, 2, 2, 64), _high(kept.levels, 4).reshape(-1, 2, 4, 32)
    return _joined(_merge(ql, 4), _merge(qh, 2), kept.sc.view(np.uint8), kept.d)


class _AffineSupers(NamedTuple):
    """What super-blocks keep: w ≈ d · sc · level - dmin · m. sc, m: (S, blocks); levels: (S, 256)."""

    d: Half
    sc: Bytes
    dmin: Half
    m: Bytes
    levels: Bytes


class _SymmetricSupers(NamedTuple):
    """What super-blocks keep: w ≈ d · sc · (level - half). sc: (S, blocks); levels: (S, 256)."""

    d: Half
    sc: NDArray[np.int8]
    levels: Bytes


def _round_affine(x: Float32, top: int, largest: int) -> _AffineSupers:
    """Scales and minima become integers up to `largest`; minima once more, for the levels that rounded scales give."""
    fit = Affine(*(part.reshape(x.size // SUPER_BLOCK, -1) for part in fit_affine(x, top)))
    d, dmin = _unit(fit.scale, largest), _unit(fit.minimum, largest)
    sc, m = _multiples(fit.scale, d, 0, largest), _multiples(fit.minimum, dmin, 0, largest)
    step, weight = _per_block(sc, d), importance(x)
    error = step * _levels(x + _per_block(m, dmin), step, 0, top) - x
    best = ratio((error * weight).sum(0), weight.sum(0)).reshape(m.shape)
    m = _multiples(best, dmin, 0, largest)
    levels = _levels(x + _per_block(m, dmin), step, 0, top)
    return _AffineSupers(d, sc.astype(np.uint8), dmin, m.astype(np.uint8), _in_supers(levels))


def _round_symmetric(x: Float32, half: int, largest: int) -> _SymmetricSupers:
    """Scales become integers from -largest, which the extreme one gets, to largest - 1."""
    scale = fit_symmetric(x, half).reshape(x.size // SUPER_BLOCK, -1)
    extreme = np.take_along_axis(scale, np.abs(scale).argmax(-1)[:, None], axis=-1)
    d = (extreme / np.float32(-largest)).astype(np.float16)
    sc = _multiples(scale, d, -largest, largest - 1)
    levels = _levels(x, _per_block(sc, d), -half, half - 1) + np.float32(half)
    return _SymmetricSupers(d, sc.astype(np.int8), _in_supers(levels))


def _blocks(supers: Float32, size: int) -> Float32:
    """(size, blocks), as searches want them."""
    return np.ascontiguousarray(supers.reshape(-1, size).T, np.float32)


def _in_supers(levels: Float32) -> Bytes:
    return levels.astype(np.uint8).T.reshape(-1, SUPER_BLOCK)


def _unit(values: Float32, largest: int) -> Half:
    """(S, 1): the largest value of each super-block is `largest` times this."""
    most: Float32 = values.max(-1, keepdims=True)
    return (most / np.float32(largest)).astype(np.float16)


def _multiples(values: Float32, unit: Half, lowest: int, highest: int) -> Float32:
    """The nearest ones of the unit as it is stored: float16 is coarse where weights are small."""
    return np.rint(ratio(values, unit.astype(np.float32))).clip(lowest, highest)


def _per_block(multiples: Float32, unit: Half) -> Float32:
    return (multiples * unit.astype(np.float32)).reshape(-1)


def _levels(x: Float32, step: Float32, lowest: int, highest: int) -> Float32:
    return np.rint(ratio(x, step)).clip(lowest, highest)


def _merge(levels: Bytes, bits: int) -> Bytes:
    """(S, …, 8 / bits, n) to (S, bytes): level i of the last axis of all groups in one byte, the first group lowest."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    merged: Bytes = np.bitwise_or.reduce(levels << shifts, axis=-2)
    return merged.reshape(len(levels), -1)


def _low(levels: Bytes, bits: int) -> Bytes:
    return levels & np.uint8((1 << bits) - 1)


def _high(levels: Bytes, bits: int) -> Bytes:
    return levels >> np.uint8(bits)


def _six_bits(sc: Bytes, m: Bytes) -> Bytes:
    """Eight of each to 12 bytes: the first four, below the top bits of the last four, whose low bits follow."""
    low = _merge(_low(np.stack([sc[:, 4:], m[:, 4:]], axis=1), 4), 4)
    sc_byte, m_byte = (part[:, :4] | _high(part[:, 4:], 4) << np.uint8(6) for part in (sc, m))
    return np.concatenate([sc_byte, m_byte, low], axis=-1)


def _joined(*fields: NDArray[np.generic]) -> Bytes:
    return np.concatenate([np.ascontiguousarray(field).view(np.uint8) for field in fields], axis=-1)
