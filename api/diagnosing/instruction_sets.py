"""What the instruction sets of a processor mean for the kernels of quantized weights in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import NamedTuple


class Meaning(NamedTuple):
    """`text`: what there is, and how fast that makes it. `remedy`: what to do where it is slow."""

    text: str
    is_slow: bool = False
    remedy: str = ""


UNKNOWN = Meaning("its instruction sets are not told by this system")


def is_arm(machine: str) -> bool:
    return machine.lower() in ("arm64", "aarch64")


def x86(features: AbstractSet[str]) -> Meaning:
    """Of flags as Linux calls them."""
    if not features:
        return UNKNOWN
    if features >= {"avx512bw", "avx512_vnni"}:
        amx = "; our own use its AMX, too" if "amx_int8" in features else ""
        return Meaning(f"AVX512-VNNI, the fastest kernels for weights of 4 and 8 bits{amx}")
    if "avx512bw" in features:
        return Meaning("AVX-512 without VNNI, quantized weights take more instructions")
    if features >= {"avx2", "avx_vnni"}:
        return Meaning("AVX2 with VNNI, fast kernels for weights of 4 and 8 bits")
    if "avx2" in features:
        return Meaning("AVX2 without VNNI, quantized weights take more instructions")
    text = "no AVX2, for which the kernels of quantized weights are made"
    return Meaning(text, is_slow=True, remedy="expect slow answers; take a small model")


def arm(features: AbstractSet[str]) -> Meaning:
    if not features:
        return UNKNOWN
    if "asimddp" in features:
        matrices = " and i8mm" if "i8mm" in features else ""
        return Meaning(f"dot products of int8{matrices}, fast kernels for quantized weights")
    remedy = "expect slow answers from quantized weights"
    return Meaning("no dot products of int8 (asimddp)", is_slow=True, remedy=remedy)
