"""Each operator said three times: formula, numpy, ONNX. Here numpy and ONNX are held together, and to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from machine import TAKES_SINGLE_ROWS
from numpy.typing import NDArray
from onnxscript import OnnxFunction

from mistralrs_onnx.ops.embedding import DenseEmbedding, embedding
from mistralrs_onnx.ops.formats import FORMATS, Bytes, Planes, find_format, row_multiple
from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN, DOMAIN, OPSET, definitions
from mistralrs_onnx.ops.linear import FLOAT_ACTIVATIONS, INT8_ACTIVATIONS, DenseLinear, linear
from mistralrs_onnx.ops.norm import RMSNorm, rms_norm
from mistralrs_onnx.ops.packed import embedding_of, linear_of
from mistralrs_onnx.ops.rope import RotaryTables, inverse_frequencies, rotary_tables

Arrays = list[NDArray[np.generic]]
COLUMNS = 768
NAMES = [*FORMATS, "int4-16", "int4-128", "int8-64-f32", "int4-32-zp", "int4-256-zp", "int8-128-zp-f32"]


def one_call(function: OnnxFunction, feeds: Arrays, constants: Arrays, outputs: int = 1, **attributes: float) -> bytes:
    """A model of one call; `feeds` are its inputs, `constants` its initializers."""
    values = [
        ir.Value(name=f"x{i}", shape=ir.Shape(a.shape), type=ir.TensorType(ir.DataType.from_numpy(a.dtype)))
        for i, a in enumerate(feeds + constants)
    ]
    given, fixed = values[: len(feeds)], values[len(feeds) :]
    for value, array in zip(fixed, constants, strict=True):
        value.const_value = ir.tensor(array, name=value.name)
    node = ir.node(function.name, values, attributes, domain=DOMAIN, num_outputs=outputs)
    for i, output in enumerate(node.outputs):
        output.name, output.type = f"y{i}", ir.TensorType(ir.DataType.FLOAT)
    opsets = {"": OPSET, CONTRIB_DOMAIN: 1, DOMAIN: 1}
    graph = ir.Graph(given, node.outputs, nodes=[node], initializers=fixed, opset_imports=opsets, name="one_call")
    return ir.to_proto(ir.Model(graph, ir_version=10, functions=list(definitions(function)))).SerializeToString()


def call(function: OnnxFunction, feeds: Arrays, constants: Arrays, outputs: int = 1, **attributes: float) -> Arrays:
    model = one_call(function, feeds, constants, outputs, **attributes)
    made = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    results: Arrays = made.run(None, {f"x{i}": feed for i, feed in enumerate(feeds)})
    return results


def inputs(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)


@pytest.fixture
def planes(random_rows: Callable[..., Bytes], name: str) -> Planes:
    """96 rows of 768 columns, with scales around 1."""
    meaning = find_format(name)
    return meaning.split(random_rows(meaning, (13, 16), 96, COLUMNS // meaning.block_size))


# Float activations: float32 sums of 768 terms. Int8 activations: half a step of 127 per term, averaged by the sum.
@pytest.mark.parametrize(("accuracy", "tolerance"), [(FLOAT_ACTIVATIONS, 1e-5), (INT8_ACTIVATIONS, 2e-2)])
@pytest.mark.parametrize("name", NAMES)
def test_packed_linears(planes: Planes, name: str, accuracy: int, tolerance: float) -> None:
    meaning, x = find_format(name), inputs(5, COLUMNS)
    relaid, functions = meaning.nbits(planes), linear_of(meaning)
    shape = {"K": COLUMNS, "N": 96, "accuracy_level": accuracy}
    expected = linear(x, relaid)
    [compact] = call(functions.compact, [x], list(planes.values()), **shape, **functions.attributes)
    assert np.abs(compact - expected).max() <= tolerance * np.abs(expected).max()
    block = {"bits": relaid.bits, "block_size": relaid.block_size}
    [widened] = call(functions.widened, [x], list(relaid.operands().values()), **shape, **block)
    np.testing.assert_array_equal(widened, compact)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_make_no_rows(planes: Planes, name: str) -> None:
    """As in the middle of a prompt, where no logits are wanted."""
    functions = linear_of(find_format(name))
    shape = {"K": COLUMNS, "N": 96, "accuracy_level": INT8_ACTIVATIONS}
    [none] = call(functions.compact, [inputs(0, COLUMNS)], list(planes.values()), **shape, **functions.attributes)
    assert none.shape == (0, 96)


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_their_company(planes: Planes, name: str) -> None:
    meaning, x = find_format(name), inputs(8, COLUMNS)
    functions = linear_of(meaning)
    multiple = row_multiple(meaning.bits, meaning.nbits_block) if TAKES_SINGLE_ROWS else 2
    shape = {"K": COLUMNS, "N": 96, "accuracy_level": INT8_ACTIVATIONS}
    [together] = call(functions.compact, [x], list(planes.values()), **shape, **functions.attributes)
    for rows in (multiple, 3 * multiple):
        [part] = call(functions.compact, [x[:rows]], list(planes.values()), **shape, **functions.attributes)
        np.testing.assert_array_equal(part, together[:rows])


@pytest.mark.parametrize("name", NAMES)
def test_packed_linears_fold_to_stock_operators(planes: Planes, name: str, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    shape = {"K": COLUMNS, "N": 96, "accuracy_level": INT8_ACTIVATIONS}
    functions = linear_of(find_format(name))
    x = inputs(2, COLUMNS)
    model = one_call(functions.compact, [x], list(planes.values()), **shape, **functions.attributes)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in ir.load(tmp_path / "folded.onnx").graph}
    assert left <= {"MatMulNBits", "Reshape", "ReduceSum", "Gemm"}


# Scales from subnormal to the largest, all subnormal, all near the largest.
@pytest.mark.parametrize("exponents", [(0, 31), (0, 1), (30, 31)])
@pytest.mark.parametrize("name", NAMES)
def test_packed_embeddings_are_exact(random_rows: Callable[..., Bytes], name: str, exponents: tuple[int, int]) -> None:
    meaning, ids = find_format(name), np.array([31, 0, 7, 7], np.int64)
    planes = meaning.split(random_rows(meaning, exponents))
    [rows] = call(embedding_of(meaning), [ids], list(planes.values()))
    np.testing.assert_array_equal(rows.view(np.uint32), embedding(ids, planes, meaning).view(np.uint32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_dense_weights(dtype: type[np.floating]) -> None:
    w, x = inputs(96, 128).astype(dtype), inputs(3, 128)
    [y] = call(DenseLinear, [x], [w])
    np.testing.assert_allclose(y, x @ w.astype(np.float32).T, rtol=1e-5, atol=1e-5)
    [rows] = call(DenseEmbedding, [np.array([5, 0], np.int64)], [w])
    np.testing.assert_array_equal(rows, w[[5, 0]].astype(np.float32))


def test_rotary_tables_keep_their_precision_far_out() -> None:
    frequencies = inverse_frequencies(10000.0, 16)
    cos, sin = call(RotaryTables, [], [frequencies], outputs=2, rows=20000)
    expected = rotary_tables(frequencies, 20000)
    np.testing.assert_allclose(cos, expected.cos, atol=1e-7)
    np.testing.assert_allclose(sin, expected.sin, atol=1e-7)


def test_the_norm() -> None:
    x, gain = inputs(5, 128), inputs(1, 128)[0]
    [y] = call(RMSNorm, [x], [gain], epsilon=1e-5)
    np.testing.assert_allclose(y, rms_norm(x, gain, 1e-5), rtol=1e-5)
