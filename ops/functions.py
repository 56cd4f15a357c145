"""Our operator domain: the opsets that function bodies are written in, and definitions for a graph."""

from __future__ import annotations

from functools import cache

import onnx_ir as ir
from onnxscript import OnnxFunction
from onnxscript.values import Opset

DOMAIN = "mistralrs"
CONTRIB_DOMAIN = "com.microsoft"
OPSET = 21  # of the standard operators; newer ones are not accepted by all hosts

own = Opset(DOMAIN, 1)
contrib = Opset(CONTRIB_DOMAIN, 1)


@cache
def definitions(function: OnnxFunction) -> tuple[ir.Function, ...]:
    """The function and those that it calls, as a graph carries them."""
    called = function.function_ir.get_called_functions().values()
    return tuple(_definition(each) for each in (function, *called))


def _definition(function: OnnxFunction) -> ir.Function:
    return ir.serde.deserialize_function(function.to_function_proto())
