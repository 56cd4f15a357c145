"""A packed linear alone in a session with kernels of our own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnxscript import OnnxFunction

from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN, DOMAIN, OPSET, definitions
from mistralrs_onnx.runtime.native import kernel_library


class Call:
    """y of x, (..., K) float32; the planes are constants."""

    def __init__(
        self, function: OnnxFunction, planes: list[NDArray[np.generic]], threads: int = 2, **attributes: int
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.register_custom_ops_library(str(kernel_library()))
        options.log_severity_level = 4  # some are made to fail
        model = _model(function, planes, attributes)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        y: NDArray[np.float32] = self._session.run(None, {"x": x})[0]
        return y


def _model(function: OnnxFunction, planes: list[NDArray[np.generic]], attributes: dict[str, int]) -> bytes:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    constants = [ir.Value(name=f"plane{i}", const_value=ir.tensor(plane)) for i, plane in enumerate(planes)]
    for constant in constants:
        constant.shape, constant.type = constant.const_value.shape, ir.TensorType(constant.const_value.dtype)
        constant.const_value.name = constant.name
    node = ir.node(function.name, [x, *constants], attributes, domain=DOMAIN)
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    opsets = {"": OPSET, CONTRIB_DOMAIN: 1, DOMAIN: 1}
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=constants, opset_imports=opsets, name="call")
    return ir.to_proto(ir.Model(graph, ir_version=10, functions=list(definitions(function)))).SerializeToString()
