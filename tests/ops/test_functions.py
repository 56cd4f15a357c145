"""Each operator said three times: formula, numpy, ONNX. Here numpy and ONNX are held together, and to ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnxscript import OnnxFunction

from mistralrs_onnx.ops.embedding import EMBEDDINGS, DenseEmbedding, embedding
from mistralrs_onnx.ops.formats import FORMATS, Planes
from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN, DOMAIN, OPSET, definitions
from mistralrs_onnx.ops.linear import FLOAT_ACTIVATIONS, INT8_ACTIVATIONS, LINEARS, DenseLinear, linear
from mistralrs_onnx.ops.norm import RMSNorm, rms_norm
from mistralrs_onnx.ops.rope import RotaryTables, inverse_frequencies, rotary_tables

Arrays = list[NDArray[np.generic]]


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


def weights(name: str, rows: int, columns: int) -> Planes:
    dense = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    return FORMATS[name].split(FORMATS[name].quantize(dense))


def inputs(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)


# Float activations: float32 sums of 128 terms. Int8 activations: half a step of 127 per term, averaged by the sum.
@pytest.mark.parametrize(("accuracy", "tolerance"), [(FLOAT_ACTIVATIONS, 1e-5), (INT8_ACTIVATIONS, 2e-2)])
@pytest.mark.parametrize("name", LINEARS)
@pytest.mark.parametrize("rows", [1, 5])
def test_packed_linears(name: str, rows: int, accuracy: int, tolerance: float) -> None:
    planes, x = weights(name, 96, 128), inputs(rows, 128)
    relaid = FORMATS[name].nbits(planes)
    shape = {"K": 128, "N": 96, "accuracy_level": accuracy}
    expected = linear(x, relaid)
    [compact] = call(LINEARS[name].compact, [x], list(planes.values()), **shape)
    assert np.abs(compact - expected).max() <= tolerance * np.abs(expected).max()
    constants: Arrays = [relaid.q, relaid.scale] + ([] if relaid.offset is None else [relaid.offset])
    block = {"bits": relaid.bits, "block_size": relaid.block_size}
    [widened] = call(LINEARS[name].widened, [x], constants, **shape, **block)
    np.testing.assert_array_equal(widened, compact)


@pytest.mark.parametrize("name", LINEARS)
def test_packed_linears_fold_to_stock_operators(name: str, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    shape = {"K": 128, "N": 96, "accuracy_level": INT8_ACTIVATIONS}
    model = one_call(LINEARS[name].compact, [inputs(2, 128)], list(weights(name, 96, 128).values()), **shape)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in ir.load(tmp_path / "folded.onnx").graph}
    assert left <= {"MatMulNBits", "Reshape", "ReduceSum", "Gemm"}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_packed_embeddings_are_exact(name: str) -> None:
    planes = weights(name, 96, 128)
    ids = np.array([95, 0, 7, 7], np.int64)
    [rows] = call(EMBEDDINGS[name], [ids], list(planes.values()))
    np.testing.assert_array_equal(rows, embedding(ids, planes, FORMATS[name]))


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
