"""All block formats by name: those of GGML, and our own integer formats whose names say their parameters."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache

from .formats_block import Bytes, Float32, Format, NBits, Planes, PlaneSpec
from .formats_codebook import IQ4_NL, IQ4_XS, MXFP4, TQ1_0, TQ2_0
from .formats_grid import IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS
from .formats_int import NAME, PATTERN, Integers
from .formats_k import Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from .formats_plain import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q8_K

__all__ = ["FORMATS", "Bytes", "Float32", "Format", "NBits", "PlaneSpec", "Planes"]

_PLAIN = (Q4_0(), Q4_1(), Q5_0(), Q5_1(), Q8_0(), Q8_1(), Q8_K())
_K = (Q2_K(), Q3_K(), Q4_K(), Q5_K(), Q6_K())
_CODEBOOK = (IQ4_NL(), IQ4_XS(), MXFP4(), TQ1_0(), TQ2_0())
_GRID = (IQ1_S(), IQ1_M(), IQ2_XXS(), IQ2_XS(), IQ2_S(), IQ3_XXS(), IQ3_S())

FORMATS: dict[str, Format] = {each.name: each for each in (*_PLAIN, *_K, *_CODEBOOK, *_GRID)}


@cache
def find_format(name: str) -> Format:
    """The format of this name, such as Q4_K or int4-128-zp; a ValueError says which there are."""
    if name in FORMATS:
        return FORMATS[name]
    parameters = NAME.fullmatch(name)
    if parameters is None:
        nearest = get_close_matches(name, [*FORMATS, "int4-32", "int4-128", "int8-32"], n=1, cutoff=0)[0]
        known = ", ".join([*FORMATS, PATTERN])
        raise ValueError(f"unknown weight format {name!r}; did you mean {nearest}? Known: {known}")
    bits, block_size, zero_points, float32_scales = parameters.groups()
    return Integers(
        int(bits), int(block_size), zero_points=zero_points is not None, float32_scales=float32_scales is not None
    )


def is_packed(name: str) -> bool:
    """Whether `find_format` knows the name; dense types such as F16 are not packed."""
    return name in FORMATS or NAME.fullmatch(name) is not None


def row_multiple(bits: int, block_size: int) -> int:
    """How many rows MatMulNBits must be given at a time for a row's result not to depend on the others."""
    largest_single = {4: 32, 8: 64, 2: 128}[bits]
    smallest_single = 32 if bits == 2 else 16
    return 1 if smallest_single <= block_size <= largest_single else 2
