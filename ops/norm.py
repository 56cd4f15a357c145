"""Root mean square norm: x / sqrt(mean(x²) + epsilon) · gain (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import numpy as np
from onnxscript import opset21 as op
from onnxscript import script

from .formats import Float32
from .functions import own


def rms_norm(x: Float32, gain: Float32, epsilon: float) -> Float32:
    """x: (..., hidden), gain: (hidden,)."""
    y: Float32 = (x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + epsilon) * gain).astype(np.float32)
    return y


@script(own, default_opset=op)
def RMSNorm(x, gain, epsilon: float):
    """In the shape that ONNX Runtime recognises and computes in one node"""
    mean = op.ReduceMean(op.Pow(x, op.Constant(value_float=2.0)), op.Constant(value_ints=[-1]), keepdims=1)
    return op.Mul(op.Div(x, op.Sqrt(op.Add(mean, op.Constant(value_float=epsilon)))), gain)
