"""Block formats against the reference implementation of GGML in Python, and against blocks worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import pytest
from gguf import quants
from numpy.typing import NDArray

from mistralrs_onnx.ops.formats import FORMATS, Bytes, Format, Planes, find_format, is_packed, row_multiple
from mistralrs_onnx.ops.formats_block import (
    nibbles_apart,
    nibbles_together,
    pack,
    pack_apart,
    unpack,
    unpack_apart,
)
from mistralrs_onnx.ops.formats_int import Integers

INTEGERS = ["int4-16", "int4-128", "int8-32-f32", "int4-64-zp", "int8-256-zp-f32"]
NAMES = [*FORMATS, *INTEGERS]
REFERENCE = [name for name in FORMATS if name not in ("Q8_1", "Q8_K")]  # which gguf cannot read


def half(value: float) -> list[int]:
    return list(np.float16(value).tobytes())


def single(value: float) -> list[int]:
    return list(np.float32(value).tobytes())


# One block each: its bytes, and some of its weights by the format's formula.
BLOCKS = {
    # d · (q - 8): 15, 0, 8
    "Q4_0": (half(0.5) + [0x0F] + [0x88] * 14 + [0x1F], {0: 3.5, 16: -4.0, 1: 0.0, 15: 3.5, 31: -3.5}),
    # d · q + m
    "Q4_1": (half(0.5) + half(-2) + [0x0F] + [0x00] * 14 + [0x31], {0: 5.5, 16: -2.0, 15: -1.5, 31: -0.5}),
    # d · (q - 16); fifth bits of columns 0 and 31 are set
    "Q5_0": (half(0.5) + [1, 0, 0, 0x80] + [0x0F] + [0] * 14 + [0x10], {0: 7.5, 16: -8.0, 15: -8.0, 31: 0.5}),
    "Q5_1": (half(0.5) + half(-2) + [1, 0, 0, 0x80] + [0x0F] + [0] * 14 + [0x10], {0: 13.5, 16: -2.0, 31: 6.5}),
    "Q8_0": (half(0.25) + [0x7F, 0x80, 0xFF] + [0] * 29, {0: 31.75, 1: -32.0, 2: -0.25, 31: 0.0}),
    "Q8_1": (half(0.25) + half(9) + [0x7F, 0x80, 0xFF] + [0] * 29, {0: 31.75, 1: -32.0, 2: -0.25, 31: 0.0}),
    "Q8_K": (single(0.1) + [0x7F, 0x80] + [0] * 254 + [9] * 32, {0: np.float32(0.1) * 127, 1: np.float32(-12.8), 2: 0}),
    # 0.5 · 3 · q - 0.25 · 2; byte 0 holds columns 0, 32, 64, 96
    "Q2_K": ([0x23] * 16 + [0b11100100] + [0] * 63 + half(0.5) + half(0.25), {0: -0.5, 32: 1, 64: 2.5, 96: 4, 1: -0.5}),
    # 0.5 · (scale - 32) · (q - 4); scales 0 and 15 are 33 and 31; bit 0 of the first mask byte lifts column 0
    "Q3_K": (
        [1] + [0] * 31 + [0b11] + [0] * 62 + [0b10000000] + [1] + [0] * 6 + [0xF0] + [2, 0, 0, 0b01000000] + half(0.5),
        {0: 1.5, 1: -2.0, 255: 1.0, 254: 2.0},
    ),
    # 0.5 · 3 · q - 0.25 · 2 in columns 0-31; 0.5 · 17 · q - 0.25 · 33 in columns 128-159
    "Q4_K": (
        half(0.5) + half(0.25) + [0x43, 0, 0, 0, 0x82, 0, 0, 0, 0x11, 0, 0, 0] + [0x0F] + [0] * 63 + [0x02] + [0] * 63,
        {0: 22.0, 1: -0.5, 32: 0.0, 128: 8.75, 129: -8.25},
    ),
    # as Q4_K; bit 0 of the first high byte adds 16 to column 0
    "Q5_K": (
        half(0.5) + half(0.25) + [3, 0, 0, 0, 2, 0, 0, 0] + [0] * 4 + [1] + [0] * 31 + [0x0F] + [0] * 127,
        {0: 46.0, 1: -0.5, 32: 0.0},
    ),
    # 0.5 · scale · (q - 32): 63, 0; the second scale is -1
    "Q6_K": ([0x0F] + [0] * 127 + [0b11] + [0] * 63 + [2] + [0xFF] * 15 + half(0.5), {0: 31.0, 1: -32.0, 16: 16.0}),
    # d · (-127, 113, 1)
    "IQ4_NL": (half(0.5) + [0xF0] + [0x88] * 15, {0: -63.5, 16: 56.5, 1: 0.5, 31: 0.5}),
    # 0.5 · (33 - 32) in the first 32 columns, 0.5 · (16 - 32) in the last
    "IQ4_XS": (half(0.5) + [2, 0b01000000] + [1, 0, 0, 0] + [0xF0] + [0x88] * 127, {0: -63.5, 16: 56.5, 255: -8.0}),
    # 2^(129 - 128) · (12, -12, 1)
    "MXFP4": ([129] + [0xF7] + [0x11] * 15, {0: 24.0, 16: -24.0, 1: 2.0, 31: 2.0}),
    # fractions 0, 0.75 and 0.5: ternary digits 0 0 0 0 0, 2 0 2 0 2 and 1 1 1 1 1
    "TQ1_0": ([0xC0] + [0] * 31 + [0x80] + [0] * 15 + [0x80] + [0] * 3 + half(0.5),
              {0: 0.5, 1: -0.5, 32: -0.5, 64: 0.5, 160: 0.0, 161: -0.5, 240: 0.0, 252: 0.0}),
    "TQ2_0": ([0b11100100] + [0] * 63 + half(0.5), {0: -0.5, 32: 0.0, 64: 0.5, 96: 1.0, 1: -0.5}),
    # 0.5 · (3 + 1/2) / 4 · ±grid; entry 1 is 43 and seven 8s; sign index 1 turns columns 0 and 7
    "IQ2_XXS": (half(0.5) + [1, 0, 0, 0] + [1, 0, 0, 0x30] + [0] * 56,
                {0: -18.8125, 1: 3.5, 7: -3.5, 8: 3.5, 32: 0.5}),
    # the same in 9 + 7 bits; scales 0 and 3
    "IQ2_XS": (half(0.5) + [1, 2] + [0] * 62 + [0x30] + [0] * 7, {0: -2.6875, 1: 0.5, 7: -0.5, 16: 3.5}),
    # index 1023, the last: eight 43s; signs of columns 0 and 7
    "IQ2_S": (half(0.5) + [255] + [0] * 31 + [0x81] + [0] * 31 + [3] + [0] * 7 + [0x30] + [0] * 7,
              {0: -2.6875, 1: 2.6875, 7: -2.6875, 8: 0.5, 16: 3.5}),
    # 0.5 · (3 + 1/2) / 2 · ±grid; entry 1 is 20 and three 4s
    "IQ3_XXS": (half(0.5) + [1] + [0] * 63 + [1, 0, 0, 0x30] + [0] * 28, {0: -17.5, 1: 3.5, 7: -3.5, 32: 0.5}),
    # 0.5 · (1 + 2 · 3) · ±grid; index 511, the last: 1, 1, 15, 15
    "IQ3_S": (half(0.5) + [255] + [0] * 63 + [1] + [0] * 7 + [0x81] + [0] * 31 + [3, 0, 0, 0],
              {0: -3.5, 1: 3.5, 2: 52.5, 4: 3.5, 7: -3.5, 32: 0.5}),
    # 0.5 · (2 · 3 + 1) · (grid ± 1/8); indices 0 (eight times -1) and 2047 (eight times 1)
    "IQ1_S": (half(0.5) + [0, 255] + [0] * 30 + [0x38, 0x30] + [0, 0xB0] + [0] * 12,
              {0: -3.0625, 8: 3.9375, 32: -3.9375, 64: -0.4375}),
    # the same, the sign in each nibble, scales 3 and 0, and 0.5 = 0x3800 in the tops of the words
    "IQ1_M": ([0, 255] + [0] * 30 + [0xF0] + [0] * 15 + [3, 0, 0, 0, 0, 0x80, 0, 0x30],
              {0: -3.0625, 8: 3.0625, 16: -0.4375}),
    "int4-16": (half(0.5) + [0x0F] + [0x88] * 7, {0: 3.5, 1: -4.0, 2: 0.0}),
    "int4-16-zp": (half(0.5) + [3] + [0x0F] + [0x88] * 7, {0: 6.0, 1: -1.5, 2: 2.5}),
    "int8-16-f32": (single(0.1) + [0x7F, 0xFF] + [0x80] * 14, {0: np.float32(-0.1), 1: np.float32(0.1) * 127, 2: 0.0}),
}  # fmt: skip


RandomRows = Callable[[Format, tuple[int, int]], Bytes]
SCALES = {"all": (0, 31), "subnormal": (0, 1), "largest": (30, 31), "usual": (4, 16)}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_worked_out_by_hand(name: str) -> None:
    raw, weights = BLOCKS[name]
    meaning = find_format(name)
    assert len(raw) == meaning.type_size
    block = meaning.dequantize(meaning.split(np.array([raw], np.uint8)))
    assert {i: block[0, i] for i in weights} == weights


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("name", REFERENCE)
def test_planes_mean_what_the_reference_says_bit_for_bit(random_rows: RandomRows, name: str, scales: str) -> None:
    raw = random_rows(FORMATS[name], SCALES[scales])
    expected = quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    made = FORMATS[name].dequantize(FORMATS[name].split(raw))
    np.testing.assert_array_equal(made.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_the_relayout_is_exact_to_two_ulp_of_the_larger_term(random_rows: RandomRows, name: str, scales: str) -> None:
    meaning = find_format(name)
    planes = meaning.split(random_rows(meaning, SCALES[scales]))
    relaid = meaning.nbits(planes)
    terms = np.abs(relaid.scale) * (1 << (relaid.bits - 1))
    if relaid.offset is not None:
        terms = np.maximum(terms, np.abs(relaid.offset))
    allowed = 2 * np.spacing(np.repeat(terms, relaid.block_size, axis=1))
    assert (np.abs(relaid.dequantize() - meaning.dequantize(planes)) <= allowed).all()


@pytest.mark.parametrize("name", NAMES)
def test_planes_are_as_compact_as_the_file_and_shaped_as_they_say(random_rows: RandomRows, name: str) -> None:
    meaning = find_format(name)
    raw = random_rows(meaning, SCALES["usual"])
    planes = meaning.split(raw)
    assert sum(plane.nbytes for plane in planes.values()) <= raw.nbytes
    assert [spec.name for spec in meaning.planes] == list(planes)
    for spec in meaning.planes:
        plane = planes[spec.name]
        assert plane.dtype == spec.dtype
        assert plane.shape[1:] == ((2, spec.per_block) if spec.per_block > 1 else (2,))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantizing_gives_the_bytes_of_the_reference_quantizer(name: str) -> None:
    weights = spread_weights()
    expected = quants.quantize(weights, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(FORMATS[name].quantize(weights), expected)


# Half a step of the format, in parts of the largest weight of a block.
STEPS = {"Q8_1": 1 / 254, "Q8_K": 1 / 254}


@pytest.mark.parametrize("name", STEPS)
def test_quantizing_is_within_a_step(name: str) -> None:
    weights, meaning = spread_weights(), find_format(name)
    made = meaning.dequantize(meaning.split(meaning.quantize(weights)))
    blocks = np.abs(weights).reshape(-1, meaning.block_size)
    error = np.abs(made - weights).reshape(blocks.shape)
    assert (error <= blocks.max(-1, keepdims=True) * (STEPS[name] + 2**-10)).all()


def test_q8_1_and_q8_k_keep_the_sums_that_files_have() -> None:
    weights = np.zeros((1, 256), np.float32)
    weights[0, [0, 1, 40]] = 127, -3, 5
    q8_1 = FORMATS["Q8_1"].quantize(weights)
    assert q8_1[0, :4].view(np.float16).tolist() == [1.0, 124.0]
    q8_k = FORMATS["Q8_K"].quantize(weights)
    assert q8_k[0, :4].view(np.float32)[0] == -1.0  # the extreme becomes -127
    assert q8_k[0, 260:].view(np.int16)[:3].tolist() == [-124, 0, -5]


def test_integer_blocks_on_a_grid_are_kept_and_use_the_whole_range() -> None:
    weights = np.arange(1.75, -2.25, -0.25, dtype=np.float32)[None]  # 16 levels, the extreme is -2
    meaning = find_format("int4-16-f32")
    planes: Planes = meaning.split(meaning.quantize(weights))
    assert planes["d"].item() == np.float32(0.25)
    assert unpack(planes["q"].astype(np.uint8), 4)[0, 0].tolist() == list(range(15, -1, -1))
    np.testing.assert_array_equal(meaning.dequantize(planes), weights)


@pytest.mark.parametrize("name", ["int4-16", "int4-32", "int4-128", "int4-256-f32", "int8-32-f32", "int8-128"])
def test_the_best_scale_of_an_integer_block_is_better_than_that_of_its_extreme(name: str) -> None:
    weights, meaning = np.random.default_rng(2).standard_normal((64, 512)).astype(np.float32), find_format(name)
    assert isinstance(meaning, Integers)
    blocks = weights.reshape(-1, meaning.block_size)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[:, None], axis=-1)
    step = (extreme / np.float32(-meaning.zero)).astype(meaning.scale_type).astype(np.float32)
    plain = np.clip(np.rint(blocks / step), -meaning.zero, meaning.zero - 1) * step
    found = meaning.dequantize(meaning.split(meaning.quantize(weights))).reshape(blocks.shape)
    # Measured: 0.93 to 0.97 of the error.
    assert np.square(found - blocks).sum() <= 0.98**2 * np.square(plain - blocks).sum()


@pytest.mark.parametrize("name", ["int4-16", "int4-128", "int8-32-f32"])
def test_integers_of_weights_of_every_size(name: str) -> None:
    weights, meaning = spread_weights(), find_format(name)
    found = meaning.dequantize(meaning.split(meaning.quantize(weights)))
    error, size = (np.sqrt(np.square(values).mean(-1)) for values in (found - weights, weights))
    # Uniform rounding errs by step / sqrt(12); a step is at most 5 of 64 normal deviations over half the levels.
    bound = 5 / (1 << (meaning.bits - 1)) / np.sqrt(12)
    assert (error <= bound * size).all()


@pytest.mark.parametrize("name", ["IQ4_NL", "TQ1_0", "int4-128-zp"])
def test_formats_that_are_only_read_say_so(name: str) -> None:
    with pytest.raises(ValueError, match="only read"):
        find_format(name).quantize(np.zeros((1, 256), np.float32))


def test_unknown_formats_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"did you mean Q4_K\? Known: Q4_0, .*int\{4,8\}-\{16,"):
        find_format("Q4_KM")
    assert is_packed("int8-256-zp-f32")
    assert not is_packed("int8-512")
    assert not is_packed("F16")


def test_which_kernels_depend_on_the_number_of_rows() -> None:
    single_rows = {(4, 16), (4, 32), (8, 16), (8, 32), (8, 64), (2, 32), (2, 64), (2, 128)}
    every = {(bits, block) for bits in (2, 4, 8) for block in (16, 32, 64, 128, 256)}
    assert {kernel for kernel in every if row_multiple(*kernel) == 1} == single_rows


def test_packing_small_integers() -> None:
    levels = np.arange(16, dtype=np.uint8)
    assert pack(levels, 4)[:2].tolist() == [0x10, 0x32]
    assert pack_apart(levels, 4)[:2].tolist() == [0x80, 0x91]
    np.testing.assert_array_equal(unpack(pack(levels, 4), 4), levels)
    np.testing.assert_array_equal(unpack_apart(pack_apart(levels, 4), 4), levels)
    np.testing.assert_array_equal(nibbles_together(pack_apart(levels, 4)), pack(levels, 4))
    np.testing.assert_array_equal(nibbles_apart(pack(levels, 4)), pack_apart(levels, 4))


def spread_weights() -> NDArray[np.float32]:
    """Rows of very different sizes; one of zeros."""
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((64, 256)) * np.exp(3 * rng.standard_normal((64, 1)))).astype(np.float32)
    weights[3] = 0
    return weights
