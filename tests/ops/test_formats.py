"""Block formats against the reference implementation of GGML in Python, and against blocks worked out by hand."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants

from mistralrs_onnx.ops.formats import FORMATS, Bytes, Format, pack_nibbles, unpack_nibbles


def half_bytes(value: float) -> list[int]:
    return list(np.float16(value).tobytes())


# One block each: its bytes, and its first and last weights by the format's formula.
BLOCKS = {
    "Q4_0": (half_bytes(0.5) + [0x0F] + [0x88] * 14 + [0x1F], {0: 3.5, 16: -4.0, 1: 0.0, 15: 3.5, 31: -3.5}),
    "Q4_1": (half_bytes(0.5) + half_bytes(-2) + [0x0F] + [0x00] * 14 + [0x31], {0: 5.5, 16: -2.0, 15: -1.5, 31: -0.5}),
    "Q8_0": (half_bytes(0.25) + [0x7F, 0x80, 0xFF] + [0] * 29, {0: 31.75, 1: -32.0, 2: -0.25, 31: 0.0}),
}


def reference_type(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name]


def random_rows(meaning: Format, seed: int = 0) -> Bytes:
    """Every bit random but those of the float16 fields, which run from subnormal to the largest finite."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (64, 8, meaning.type_size), dtype=np.uint8)
    num_halves = sum(plane.dtype == "float16" for plane in meaning.planes)
    halves = rng.integers(0, 0x7C00, (64, 8, num_halves), dtype=np.uint16)
    blocks[..., : 2 * num_halves] = (halves | rng.integers(0, 2, halves.shape, dtype=np.uint16) << 15).view(np.uint8)
    return blocks.reshape(64, -1)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_worked_out_by_hand(name: str) -> None:
    raw, weights = BLOCKS[name]
    block = FORMATS[name].dequantize(FORMATS[name].split(np.array([raw], np.uint8)))
    assert {i: block[0, i] for i in weights} == weights


@pytest.mark.parametrize("meaning", FORMATS.values(), ids=FORMATS)
def test_planes_mean_what_the_reference_dequantizer_says_bit_for_bit(meaning: Format) -> None:
    raw = random_rows(meaning)
    expected = quants.dequantize(raw, reference_type(meaning.name))
    np.testing.assert_array_equal(meaning.dequantize(meaning.split(raw)), expected)


@pytest.mark.parametrize("meaning", FORMATS.values(), ids=FORMATS)
def test_the_relayout_is_exact_to_two_ulp_of_the_larger_term(meaning: Format) -> None:
    planes = meaning.split(random_rows(meaning))
    relaid = meaning.nbits(planes)
    exact = meaning.dequantize(planes)
    levels = 1 << (relaid.bits - 1)
    terms = (
        np.abs(relaid.scale) * levels
        if relaid.offset is None
        else np.maximum(np.abs(relaid.scale) * levels, np.abs(relaid.offset))
    )
    allowed = 2 * np.spacing(np.repeat(terms, meaning.block_size, axis=1).astype(np.float32))
    assert (np.abs(relaid.dequantize() - exact) <= allowed).all()


@pytest.mark.parametrize("meaning", FORMATS.values(), ids=FORMATS)
def test_quantizing_gives_the_bytes_of_the_reference_quantizer(meaning: Format) -> None:
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((64, 256)) * np.exp(3 * rng.standard_normal((64, 1)))).astype(np.float32)
    weights[3] = 0
    np.testing.assert_array_equal(meaning.quantize(weights), quants.quantize(weights, reference_type(meaning.name)))


def test_nibbles_are_packed_low_half_first() -> None:
    levels = np.arange(16, dtype=np.uint8)
    assert pack_nibbles(levels)[:2].tolist() == [0x10, 0x32]
    np.testing.assert_array_equal(unpack_nibbles(pack_nibbles(levels)), levels)
