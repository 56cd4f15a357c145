"""Which functions compute with the planes of a format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from onnxscript import OnnxFunction

from . import packed_codebook as codebook
from . import packed_grid as grid
from . import packed_k as k
from . import packed_plain as plain
from .formats_block import Format
from .linear import CentredLinear, OffsetLinear, ZeroPointLinear


class PackedLinear(NamedTuple):
    """The function over a format's planes with its attributes, and the one over what they widen to (`Format.nbits`)."""

    compact: OnnxFunction
    widened: OnnxFunction
    attributes: Mapping[str, int]


class _Functions(NamedTuple):
    linear: OnnxFunction
    embedding: OnnxFunction
    widened: OnnxFunction = CentredLinear


_FUNCTIONS: dict[str, _Functions] = {
    "Q4_0": _Functions(plain.Q4_0Linear, plain.Q4_0Embedding),
    "Q4_1": _Functions(plain.Q4_1Linear, plain.Q4_1Embedding, OffsetLinear),
    "Q5_0": _Functions(plain.Q5_0Linear, plain.Q5_0Embedding),
    "Q5_1": _Functions(plain.Q5_1Linear, plain.Q5_1Embedding, OffsetLinear),
    "Q8_0": _Functions(plain.Q8_0Linear, plain.Q8_0Embedding),
    "Q8_1": _Functions(plain.Q8_0Linear, plain.Q8_0Embedding),
    "Q8_K": _Functions(plain.Q8_KLinear, plain.Q8_0Embedding),
    "Q2_K": _Functions(k.Q2_KLinear, k.Q2_KEmbedding, OffsetLinear),
    "Q3_K": _Functions(k.Q3_KLinear, k.Q3_KEmbedding),
    "Q4_K": _Functions(k.Q4_KLinear, k.Q4_KEmbedding, OffsetLinear),
    "Q5_K": _Functions(k.Q5_KLinear, k.Q5_KEmbedding, OffsetLinear),
    "Q6_K": _Functions(k.Q6_KLinear, k.Q6_KEmbedding),
    "IQ4_NL": _Functions(codebook.IQ4_NLLinear, codebook.IQ4_NLEmbedding),
    "IQ4_XS": _Functions(codebook.IQ4_XSLinear, codebook.IQ4_XSEmbedding),
    "MXFP4": _Functions(codebook.MXFP4Linear, codebook.MXFP4Embedding),
    "TQ1_0": _Functions(codebook.TQ1_0Linear, codebook.TQ1_0Embedding),
    "TQ2_0": _Functions(codebook.TQ2_0Linear, codebook.TQ2_0Embedding, ZeroPointLinear),
    "IQ1_S": _Functions(grid.IQ1_SLinear, grid.IQ1_SEmbedding),
    "IQ1_M": _Functions(grid.IQ1_MLinear, grid.IQ1_MEmbedding),
    "IQ2_XXS": _Functions(grid.IQ2_XXSLinear, grid.IQ2_XXSEmbedding),
    "IQ2_XS": _Functions(grid.IQ2_XSLinear, grid.IQ2_XSEmbedding),
    "IQ2_S": _Functions(grid.IQ2_SLinear, grid.IQ2_SEmbedding),
    "IQ3_XXS": _Functions(grid.IQ3_XXSLinear, grid.IQ3_XXSEmbedding),
    "IQ3_S": _Functions(grid.IQ3_SLinear, grid.IQ3_SEmbedding),
}
_INTEGERS: dict[tuple[int, bool], _Functions] = {
    (4, False): _Functions(plain.IntLinear, plain.Q4_0Embedding),
    (8, False): _Functions(plain.IntLinear, plain.Q8_0Embedding),
    (4, True): _Functions(plain.Int4ZeroPointLinear, plain.Int4ZeroPointEmbedding, ZeroPointLinear),
    (8, True): _Functions(plain.Int8ZeroPointLinear, plain.Int8ZeroPointEmbedding, ZeroPointLinear),
}


def linear_of(meaning: Format) -> PackedLinear:
    functions = _functions(meaning)
    parameters = {"bits": meaning.bits, "block_size": meaning.nbits_block}
    attributes = {} if meaning.name in _FUNCTIONS else parameters
    return PackedLinear(functions.linear, functions.widened, attributes)


def embedding_of(meaning: Format) -> OnnxFunction:
    """Takes ids, then the planes."""
    return _functions(meaning).embedding


def _functions(meaning: Format) -> _Functions:
    if meaning.name in _FUNCTIONS:
        return _FUNCTIONS[meaning.name]
    has_zero_points = any(plane.name == "zero" for plane in meaning.planes)
    return _INTEGERS[meaning.bits, has_zero_points]
