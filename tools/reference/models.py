"""Which architectures can be compiled, and in which formats weights are kept."""

from __future__ import annotations

from collections.abc import Iterator

from mistralrs_onnx.compiler.archs import ARCHS
from mistralrs_onnx.compiler.isq_map import BITS, GGML_TYPES
from mistralrs_onnx.ops.formats import FORMATS

from .text import code, table

ARCHITECTURES = """# Architectures

A checkpoint says what it is; `--arch NAME` says it before the checkpoint. Anything else is refused by name.

"""
FORMATS_ABOVE = """# Weight formats

What a GGUF file has is kept bit for bit; F32, F16 and BF16 are kept too. `--isq` makes those that say so.

"""
FORMATS_BELOW = """
`--isq` also takes a number of bits ({bits}), and `int4` or `int8` with `--block-size`: integers with one scale for
each block, with which ONNX Runtime computes as it finds them. Safetensors may hold FP8, GPTQ, AWQ and MXFP4.
"""


def architectures() -> str:
    rows = [
        (code(arch.name), ", ".join(map(code, arch.hf)), ", ".join(map(code, arch.gguf))) for arch in ARCHS.values()
    ]
    return ARCHITECTURES + table(["name", "`architectures` in config.json", "`general.architecture` in GGUF"], rows)


def formats() -> str:
    bits = ", ".join(f"{number} is {name}" for number, name in BITS.items())
    columns = ["name", "weights of a block", "bytes of a block", "bits a weight", "`--isq`"]
    return FORMATS_ABOVE + table(columns, _formats()) + FORMATS_BELOW.format(bits=bits)


def _formats() -> Iterator[tuple[str, ...]]:
    for name, each in FORMATS.items():
        bits = 8 * each.type_size / each.block_size
        made = code(name.replace("_K", "K")) if name in GGML_TYPES else ""
        yield code(name), str(each.block_size), str(each.type_size), f"{bits:.2f}", made
