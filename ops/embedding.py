"""Embeddings over the planes of block formats: the rows of T tokens are gathered, then widened; exact for every format.

ids: int64 (T,). y: float32 (T, K). Nothing here can be folded, so the planes may be shared with a tied LM head.
levels: uint8 (T, blocks, n), one a weight. scale, minimum, zero: (T, blocks).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnxscript import opset21 as op
from onnxscript import script

from .formats_block import Float32, Format, Planes
from .functions import own


def embedding(ids: NDArray[np.int64], planes: Planes, meaning: Format) -> Float32:
    rows = {name: plane[ids] for name, plane in planes.items()}
    return meaning.dequantize(rows)


@script(own, default_opset=op)
def Column(numbers):
    """A float32 number beside each block: (T, blocks) to (T, blocks, 1)"""
    return op.Unsqueeze(op.Cast(numbers, to=1), op.Constant(value_ints=[-1]))


@script(own, default_opset=op)
def CentredRows(levels, scale, middle: float):
    """scale · (levels - middle)"""
    centred = op.Sub(op.Cast(levels, to=1), op.Constant(value_float=middle))
    return op.Reshape(op.Mul(centred, Column(scale)), op.Constant(value_ints=[0, -1]))


@script(own, default_opset=op)
def ZeroPointRows(levels, scale, zero):
    """scale · (levels - zero)"""
    centred = op.Sub(op.Cast(levels, to=1), Column(zero))
    return op.Reshape(op.Mul(centred, Column(scale)), op.Constant(value_ints=[0, -1]))


@script(own, default_opset=op)
def OffsetRows(levels, scale, minimum, bottom: float):
    """scale · (levels - bottom) + minimum"""
    above = op.Mul(op.Sub(op.Cast(levels, to=1), op.Constant(value_float=bottom)), Column(scale))
    return op.Reshape(op.Add(above, Column(minimum)), op.Constant(value_ints=[0, -1]))


@script(own, default_opset=op)
def DenseEmbedding(ids, w):
    """w, kept in float32, float16 or bfloat16"""
    return op.Cast(op.Gather(w, ids, axis=0), to=1)
