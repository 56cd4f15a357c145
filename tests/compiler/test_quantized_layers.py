from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tiny_models import BASE, IDS, Described, write_folder

from mistralrs_onnx.compiler.checkpoints.safetensors import Safetensors, read_safetensors
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.float8 import Float8
from mistralrs_onnx.compiler.mxfp4 import MXFP4
from mistralrs_onnx.compiler.quantized_layers import AWQ, GPTQ, read_quantization
from mistralrs_onnx.graphs.weights import Matrix
from mistralrs_onnx.ops.formats import find_format
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.native import kernel_library, kernel_problem
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session

Arrays = dict[str, NDArray[Any]]
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)  # the column in each nibble of a word, lowest first


def layer(
    bits: int,
    group: int,
    *,
    symmetric: bool = False,
    dtype: type[np.generic] = np.float16,
    shape: tuple[int, int] = (24, 64),
    seed: int = 0,
) -> Arrays:
    """Levels (K, N), zero points and scales (K / group, N) of a layer with N, K = shape."""
    rng = np.random.default_rng(seed)
    (n, k), top = shape, 1 << bits
    zeros = np.full((k // group, n), top // 2) if symmetric else rng.integers(0, top, (k // group, n))
    scales = rng.uniform(-0.1, 0.1, (k // group, n)).astype(dtype)
    return {"levels": rng.integers(0, top, (k, n)), "zeros": zeros, "scales": scales}


def words(levels: NDArray[Any], bits: int, order: tuple[int, ...], axis: int) -> NDArray[np.int32]:
    """Levels packed along an axis; field i of a word, from the lowest bits, holds element order[i] of its own."""
    moved = np.moveaxis(levels, axis, -1)
    packed = np.zeros((*moved.shape[:-1], moved.shape[-1] // len(order)), np.uint32)
    for i, element in enumerate(order):
        packed |= moved[..., element :: len(order)].astype(np.uint32) << np.uint32(bits * i)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32)


def gptq(arrays: Arrays, bits: int, offset: int) -> Arrays:
    order = tuple(range(32 // bits))
    ones = np.uint32(0x11111111 if bits == 4 else 0x01010101)
    zeros = words(arrays["zeros"], bits, order, 1).view(np.uint32) - np.uint32(offset) * ones  # a 0 borrows
    k, group = len(arrays["levels"]), len(arrays["levels"]) // len(arrays["scales"])
    return {
        "l.qweight": words(arrays["levels"], bits, order, 0),
        "l.qzeros": zeros.view(np.int32),
        "l.scales": arrays["scales"],
        "l.g_idx": (np.arange(k) // group).astype(np.int32),
    }


def awq(arrays: Arrays) -> Arrays:
    return {
        "l.qweight": words(arrays["levels"], 4, AWQ_COLUMNS, 1),
        "l.qzeros": words(arrays["zeros"], 4, AWQ_COLUMNS, 1),
        "l.scales": arrays["scales"],
    }


def opened(folder: Path, tensors: Arrays) -> Safetensors:
    save_file(tensors, folder / "m.safetensors")
    return read_safetensors(folder / "m.safetensors")


def meaning(arrays: Arrays) -> NDArray[np.float32]:
    """(N, K), straight from the formula."""
    group = len(arrays["levels"]) // len(arrays["scales"])
    scales, zeros = (np.repeat(arrays[name], group, axis=0) for name in ("scales", "zeros"))
    return ((arrays["levels"] - zeros).astype(np.float32) * scales.astype(np.float32)).T


def assert_means(matrix: Matrix, expected: NDArray[np.float32]) -> None:
    """All rows at once, and rows that start and stop inside a word."""
    form = find_format(matrix.format)
    assert matrix.shape == expected.shape
    for start, stop in ((0, len(expected)), (3, 13)):
        raw = matrix.rows(start, stop)
        assert raw.shape == (stop - start, matrix.shape[1] // form.block_size * form.type_size)
        assert np.array_equal(form.dequantize(form.split(raw)), expected[start:stop])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [16, 32, 64])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("offset", [0, 1])
def test_gptq_means_the_same(tmp_path: Path, bits: int, group: int, symmetric: bool, offset: int) -> None:
    arrays = layer(bits, group, symmetric=symmetric)
    with opened(tmp_path, gptq(arrays, bits, offset)) as file:
        matrix = GPTQ(bits, group, zero_offset=offset).matrix(file, "l")
        assert matrix.format == f"int{bits}-{group}{'' if symmetric else '-zp'}"
        assert_means(matrix, meaning(arrays))


@pytest.mark.parametrize("group", [16, 32, 64])
@pytest.mark.parametrize("symmetric", [True, False])
def test_awq_means_the_same(tmp_path: Path, group: int, symmetric: bool) -> None:
    arrays = layer(4, group, symmetric=symmetric)
    with opened(tmp_path, awq(arrays)) as file:
        matrix = AWQ(group).matrix(file, "l")
        assert matrix.format == f"int4-{group}{'' if symmetric else '-zp'}"
        assert_means(matrix, meaning(arrays))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_scales_that_are_not_float16_are_kept_in_float32(tmp_path: Path, dtype: type[np.generic]) -> None:
    arrays = layer(4, 32, dtype=dtype)
    with opened(tmp_path, awq(arrays)) as file:
        matrix = AWQ(32).matrix(file, "l")
        assert matrix.format == "int4-32-zp-f32"
        assert_means(matrix, meaning(arrays))


@pytest.mark.parametrize(("columns", "block"), [(64, 64), (48, 16), (96, 32), (512, 256)])
def test_one_group_per_row_is_cut_into_the_largest_blocks(tmp_path: Path, columns: int, block: int) -> None:
    arrays = layer(4, columns, shape=(16, columns))
    with opened(tmp_path, gptq(arrays, 4, 1)) as file:
        matrix = GPTQ(4, -1, zero_offset=1).matrix(file, "l")
        assert matrix.format == f"int4-{block}-zp"
        assert_means(matrix, meaning(arrays))


def test_a_block_worked_out_by_hand(tmp_path: Path) -> None:
    """Row 0: levels 0 to 15, zero point 3 (stored as 2), scale 1.0, which is 0x3c00."""
    arrays = {"levels": np.zeros((16, 8), int), "zeros": np.full((1, 8), 3), "scales": np.ones((1, 8), np.float16)}
    arrays["levels"][:, 0] = np.arange(16)
    with opened(tmp_path, gptq(arrays, 4, 1)) as file:
        assert file.read(file["l.qzeros"], 0, 4).tobytes().hex() == "22222222"
        row = GPTQ(4, 16, zero_offset=1).matrix(file, "l").rows(0, 1)
    assert row.tobytes().hex() == "003c" + "03" + "1032547698badcfe"


def test_layers_without_packed_words_are_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path, gptq(layer(4, 32), 4, 1) | {"head.weight": np.zeros((2, 2), np.float32)}) as file:
        assert GPTQ(4, 32, 1).applies(file, "l")
        assert not GPTQ(4, 32, 1).applies(file, "head")


def changed(**tensors: NDArray[Any]) -> Arrays:
    return gptq(layer(4, 32), 4, 1) | {f"l.{name}": value for name, value in tensors.items()}


ACTIVATION_ORDER = np.random.default_rng(0).permutation(64).astype(np.int32) // 32


@pytest.mark.parametrize(
    ("tensors", "group", "message"),
    [
        (changed(g_idx=ACTIVATION_ORDER), 32, "l: desc_act .* is not supported: quantize with desc_act=False"),
        (changed(g_idx=np.zeros(3, np.int32)), 32, "tensor l.g_idx must be 64 of I32"),
        (changed(qweight=np.zeros((8, 24), np.float32)), 32, "tensor l.qweight must be a matrix of I32, got F32"),
        (changed(qzeros=np.zeros((2, 4), np.int32)), 32, r"l.qzeros has shape \[2, 4\], 4 bits in groups of 32"),
        (changed(scales=np.ones((1, 24), np.float16)), 32, r"l.scales has shape \[1, 24\]"),
        (changed(scales=np.ones((2, 24), np.int16)), 32, "l.scales must be one of F32, F16, BF16, got I16"),
        (changed(scales=np.full((2, 24), np.nan, np.float16)), 32, "l.scales holds a scale that is not finite"),
        (changed(), 64, "bits or group_size in the config are not those of the file"),
        (changed(), 24, "groups of 24 must divide 64 columns"),
        (changed(), 8, "be multiples of 16"),
    ],
)
def test_each_rule_has_its_message(tmp_path: Path, tensors: Arrays, group: int, message: str) -> None:
    with opened(tmp_path, tensors) as file, pytest.raises(CompileError, match=message):
        GPTQ(4, group, zero_offset=1).matrix(file, "l").rows(0, 24)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, None),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, GPTQ(4, 128, zero_offset=1)),
        (
            {"quant_method": "gptq", "bits": 8, "group_size": -1, "checkpoint_format": "gptq_v2"},
            GPTQ(8, -1, zero_offset=0),
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "GEMM"}, AWQ(64)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, AWQ(64)),
        ({"quant_method": "fp8"}, Float8()),
        ({"quant_method": "mxfp4"}, MXFP4()),
        ({"quant_method": "fp8", "weight_block_size": [128, 64]}, Float8((128, 64))),
    ],
)
def test_configs(config: dict[str, object] | None, expected: object) -> None:
    assert read_quantization(config) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "gtpq"}, r"must be one of gptq, awq, fp8, mxfp4, got 'gtpq' \(nearest: gptq\)"),
        ({}, "quant_method must be one of gptq, awq, fp8, mxfp4, got None"),
        ({"quant_method": ["gptq"]}, "quant_method must be one of"),
        ({"quant_method": "gptq", "bits": 3}, "GPTQ bits must be 4 or 8, got 3"),
        ({"quant_method": "gptq", "bits": [4]}, "GPTQ bits must be 4 or 8"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "must be gptq or gptq_v2, got 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size must be -1 or positive, got 0"),
        ({"quant_method": "awq", "bits": 8}, "AWQ bits must be 4, got 8"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ version must be gemm, got 'gemv'"),
        ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size must be two positive integers"),
    ],
)
def test_configs_that_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        read_quantization(config)


LINEARS = {
    "self_attn.q_proj": (256, 256),
    "self_attn.k_proj": (128, 256),
    "self_attn.v_proj": (128, 256),
    "self_attn.o_proj": (256, 256),
    "mlp.gate_proj": (512, 256),
    "mlp.up_proj": (512, 256),
    "mlp.down_proj": (256, 512),
}
LLAMA = Described(
    BASE
    | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1},
    {
        f"model.{name}.weight": (256,)
        for name in ("norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm")
    }
    | {f"{name}.weight": (BASE["vocab_size"], 256) for name in ("model.embed_tokens", "lm_head")},
)
METHODS = {
    "gptq-4": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "gptq-8": {"quant_method": "gptq", "bits": 8, "group_size": 64},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
}


def write_model(folder: Path, layers: dict[str, Arrays], changes: Mapping[str, object] | None = None) -> Path:
    write_folder(LLAMA, folder, changes)
    linears = {
        f"model.layers.0.{name}.{key}": value for name, arrays in layers.items() for key, value in arrays.items()
    }
    save_file(LLAMA.weights() | linears, folder / "model.safetensors")
    return folder


def logits(folder: Path, options: CompileOptions, kernels: Path | None = None) -> NDArray[np.float32]:
    package = open_package(compile_folder(folder, folder / "package", options))
    session = make_session(package.engine("float32"), kernels=kernels)
    runner = OrtRunner(session, package.manifest, num_slots=1, max_model_len=64, max_chunk=32)
    return runner.run([Row(0, 0, IDS, len(IDS))])


@pytest.mark.parametrize("native", [False, True], ids=["stock", "native"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_answers_as_its_dense_twin(tmp_path: Path, method: str, symmetric: bool, native: bool) -> None:
    """Within a twentieth of the spread of logits: seven linears, each of which rounds activations to 8 bits."""
    if native and kernel_library() is None:
        pytest.skip(f"no kernels of our own here: {kernel_problem()}")
    config = METHODS[method]
    bits, group = int(config["bits"]), int(config["group_size"])
    packed, dense = {}, {}
    for seed, (name, shape) in enumerate(LINEARS.items()):
        arrays = layer(bits, group, symmetric=symmetric, shape=shape, seed=seed)
        arrays["scales"] *= np.float16(2.0 ** (2 - bits))
        words_of = awq(arrays) if method == "awq" else gptq(arrays, bits, 1)
        packed[name] = {key.removeprefix("l."): value for key, value in words_of.items()}
        dense[name] = {"weight": np.ascontiguousarray(meaning(arrays))}
    wanted = logits(write_model(tmp_path / "dense", dense), CompileOptions(accuracy="float32"))
    folder = write_model(tmp_path / "packed", packed, {"quantization_config": config})
    error = logits(folder, CompileOptions(), kernel_library() if native else None) - wanted
    print("error over spread of logits:", error.std() / wanted.std())
    assert error.std() <= 0.05 * wanted.std()
