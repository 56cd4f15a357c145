"""How far types of weights are from the weights that they stand for, found on weights of a normal distribution."""

from __future__ import annotations

from functools import cache

import numpy as np

from mistralrs_onnx.compiler.dense import cast_rows
from mistralrs_onnx.compiler.isq import floats
from mistralrs_onnx.graphs.weights import DENSE
from mistralrs_onnx.ops.formats import Bytes, Float32, find_format

ROWS, COLUMNS = 64, 1024  # whole blocks of every type


@cache
def type_error(name: str) -> float:
    """Root of the mean square of errors over that of weights: 0.07 for Q4_K, 0 for F32.

    Weights of models err alike: trained matrices are nearly normal within a block.
    """
    weights = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    kept = floats(_converted(weights, name), name)
    return float(np.sqrt(np.mean((kept - weights) ** 2) / np.mean(weights**2)))


def _converted(weights: Float32, name: str) -> Bytes:
    if name in DENSE:
        return cast_rows(weights.view(np.uint8), "F32", name, name)
    return find_format(name).quantize(weights)
