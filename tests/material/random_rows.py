"""Rows of every format, random but for the size of their scales."""

from __future__ import annotations

import numpy as np

from mistralrs_onnx.ops.formats import Bytes, Format

SCALES_LAST = ("Q2_K", "Q3_K", "Q6_K", "TQ1_0", "TQ2_0")


def random_rows(meaning: Format, exponents: tuple[int, int], rows: int = 32, blocks: int = 2) -> Bytes:
    """Every bit random but the exponents of the float fields, which lie between the two that are named."""
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (rows, blocks, meaning.type_size), dtype=np.uint8)
    for field in _float_fields(meaning):
        is_half = field.stop - field.start == 2
        raw[..., field] = _random_floats(rng, raw.shape[:2], np.float16 if is_half else np.float32, exponents)
    if meaning.name == "IQ1_M":  # its scale lies in the tops of the last four words
        _spread_over_tops(raw[..., -8:], _random_floats(rng, raw.shape[:2], np.float16, exponents))
    if meaning.name == "MXFP4":  # its scale is a power of two in a byte; above 246 products overflow
        raw[..., 0] = 8 * rng.integers(*exponents, raw.shape[:2]) + rng.integers(0, 2, raw.shape[:2])
    if "zero" in (plane.name for plane in meaning.planes):
        raw[..., 4 if "f32" in meaning.name else 2] &= (1 << meaning.bits) - 1
    return raw.reshape(rows, -1)


def _random_floats(rng: np.random.Generator, shape: tuple[int, ...], kind: type, exponents: tuple[int, int]) -> Bytes:
    fractions = 1 + rng.random((*shape, 1)) if exponents != (0, 1) else rng.random((*shape, 1))
    signs = rng.choice([-1, 1], fractions.shape)
    powers = rng.integers(*exponents, fractions.shape) - 15
    return (signs * np.minimum(np.ldexp(fractions, powers), 65504)).astype(kind).view(np.uint8)


def _spread_over_tops(words: Bytes, half: Bytes) -> None:
    for i in range(4):
        nibble = half[..., i // 2] >> 4 * (i % 2) & 15
        words[..., 2 * i + 1] = words[..., 2 * i + 1] & 15 | nibble << 4


def _float_fields(meaning: Format) -> list[slice]:
    """Where blocks keep their float fields: first in most formats, last in some."""
    if meaning.name == "IQ1_M":
        return []
    widths = [4 if plane.dtype == "float32" else 2 for plane in meaning.planes if plane.dtype.startswith("float")]
    start = meaning.type_size - sum(widths) if meaning.name in SCALES_LAST else 0
    return [slice(start + sum(widths[:i]), start + sum(widths[: i + 1])) for i in range(len(widths))]
