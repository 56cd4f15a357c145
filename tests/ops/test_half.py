"""Linears over float16 say the same as those over float32, and fold to as few operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnxscript import OnnxFunction

from mistralrs_onnx.ops.formats import Bytes, find_format
from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN, DOMAIN, OPSET
from mistralrs_onnx.ops.half import half_definitions
from mistralrs_onnx.ops.linear import FLOAT_ACTIVATIONS, DenseLinear, linear
from mistralrs_onnx.ops.packed import linear_of

COLUMNS, ROWS = 768, 96
NAMES = ["Q4_0", "Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q6_K", "Q8_K", "TQ2_0", "IQ2_S", "int4-128", "int4-32-zp"]


def one_call(function: OnnxFunction, constants: list[np.ndarray], **attributes: int) -> bytes:
    """A model of one call, float16 in and out; `constants` are its initializers."""
    values = [ir.Value(name=f"w{i}", const_value=ir.tensor(a, name=f"w{i}")) for i, a in enumerate(constants)]
    for value, array in zip(values, constants, strict=True):
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    half = ir.TensorType(ir.DataType.FLOAT16)
    x = ir.Value(name="x", shape=ir.Shape(["rows", COLUMNS]), type=half)
    node = ir.node(function.name, [x, *values], attributes, domain=DOMAIN)
    node.outputs[0].name, node.outputs[0].type = "y", half
    opsets = {"": OPSET, CONTRIB_DOMAIN: 1, DOMAIN: 1}
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=values, opset_imports=opsets, name="one_call")
    model = ir.Model(graph, ir_version=10, functions=list(half_definitions(function)))
    return ir.to_proto(model).SerializeToString()


def session(model: bytes, folded: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folded)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def inputs() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((5, COLUMNS)).astype(np.float16)


@pytest.mark.parametrize("name", NAMES)
def test_packed_linears(random_rows: Callable[..., Bytes], name: str, tmp_path: Path) -> None:
    """Scales, products and the result have eleven bits: a part in two thousand of the largest each."""
    meaning, x = find_format(name), inputs()
    planes = meaning.split(random_rows(meaning, (5, 8), ROWS, COLUMNS // meaning.block_size))  # none overflows
    functions = linear_of(meaning)
    shape = {"K": COLUMNS, "N": ROWS, "accuracy_level": FLOAT_ACTIVATIONS}
    model = one_call(functions.compact, list(planes.values()), **shape, **functions.attributes)
    [y] = session(model, tmp_path / "folded.onnx").run(None, {"x": x})
    expected = linear(x.astype(np.float32), meaning.nbits(planes))
    assert y.dtype == np.float16
    assert np.abs(y - expected).max() <= 2e-3 * np.abs(expected).max()
    left = {node.op_type for node in ir.load(tmp_path / "folded.onnx").graph}
    assert left <= {"MatMulNBits", "Reshape", "ReduceSum", "Gemm", "Cast"}


def test_dense_weights(tmp_path: Path) -> None:
    w, x = np.random.default_rng(2).standard_normal((ROWS, COLUMNS)).astype(np.float32), inputs()
    [y] = session(one_call(DenseLinear, [w]), tmp_path / "folded.onnx").run(None, {"x": x})
    expected = x.astype(np.float32) @ w.T
    assert np.abs(y - expected).max() <= 2e-3 * np.abs(expected).max()  # as above
