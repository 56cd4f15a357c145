"""Embeddings over the planes of block formats: the rows of T tokens are gathered, then widened; exact for every format.

ids: int64 (T,). y: float32 (T, K). Nothing here can be folded, so the planes may be shared with a tied LM head.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnxscript import OnnxFunction, script
from onnxscript import opset21 as op

from .formats import Float32, Format, Planes
from .functions import own


def embedding(ids: NDArray[np.int64], planes: Planes, meaning: Format) -> Float32:
    rows = {name: plane[ids] for name, plane in planes.items()}
    return meaning.dequantize(rows)


@script(own, default_opset=op)
def Nibbles(q):
    """The two halves of each byte, the low one first: (..., n) to float32 (..., n, 2)"""
    low = op.BitwiseAnd(q, op.Cast(op.Constant(value_int=15), to=2))
    high = op.BitShift(q, op.Cast(op.Constant(value_int=4), to=2), direction="RIGHT")
    last = op.Constant(value_ints=[-1])
    return op.Cast(op.Concat(op.Unsqueeze(low, last), op.Unsqueeze(high, last), axis=-1), to=1)


@script(own, default_opset=op)
def Q4_0Embedding(ids, q, d):
    """d · (q - 8)"""
    levels = op.Reshape(Nibbles(op.Gather(q, ids, axis=0)), op.Constant(value_ints=[0, 0, -1]))
    scale = op.Unsqueeze(op.Cast(op.Gather(d, ids, axis=0), to=1), op.Constant(value_ints=[-1]))
    rows = op.Mul(op.Sub(levels, op.Constant(value_float=8.0)), scale)
    return op.Reshape(rows, op.Constant(value_ints=[0, -1]))


@script(own, default_opset=op)
def Q4_1Embedding(ids, q, d, m):
    """d · q + m"""
    last = op.Constant(value_ints=[-1])
    levels = op.Reshape(Nibbles(op.Gather(q, ids, axis=0)), op.Constant(value_ints=[0, 0, -1]))
    scale = op.Unsqueeze(op.Cast(op.Gather(d, ids, axis=0), to=1), last)
    minimum = op.Unsqueeze(op.Cast(op.Gather(m, ids, axis=0), to=1), last)
    return op.Reshape(op.Add(op.Mul(levels, scale), minimum), op.Constant(value_ints=[0, -1]))


@script(own, default_opset=op)
def Q8_0Embedding(ids, q, d):
    """d · (q - 128)"""
    levels = op.Cast(op.Gather(q, ids, axis=0), to=1)
    scale = op.Unsqueeze(op.Cast(op.Gather(d, ids, axis=0), to=1), op.Constant(value_ints=[-1]))
    rows = op.Mul(op.Sub(levels, op.Constant(value_float=128.0)), scale)
    return op.Reshape(rows, op.Constant(value_ints=[0, -1]))


@script(own, default_opset=op)
def DenseEmbedding(ids, w):
    """w, kept in float32, float16 or bfloat16"""
    return op.Cast(op.Gather(w, ids, axis=0), to=1)


EMBEDDINGS: dict[str, OnnxFunction] = {"Q4_0": Q4_0Embedding, "Q4_1": Q4_1Embedding, "Q8_0": Q8_0Embedding}
