"""Architectures: each file turns a config into a tree of specs."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from mistralrs_onnx.compiler.errors import CompileError

from .arch import Arch
from .gemma import GEMMA, GEMMA2, GEMMA3
from .gpt_oss import GPT_OSS
from .granite import GRANITE
from .llama import LLAMA, MISTRAL
from .mixtral import MIXTRAL
from .olmo2 import OLMO2
from .phi import PHI2, PHI3
from .qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE
from .smollm3 import SMOLLM3
from .starcoder2 import STARCODER2

ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        LLAMA,
        MISTRAL,
        MIXTRAL,
        GEMMA,
        GEMMA2,
        GEMMA3,
        PHI2,
        PHI3,
        QWEN2,
        QWEN2_MOE,
        QWEN3,
        QWEN3_MOE,
        SMOLLM3,
        STARCODER2,
        OLMO2,
        GRANITE,
        GPT_OSS,
    )
}


def find_arch(name: str) -> Arch:
    """The architecture that a user calls `name`. Raises CompileError for an unknown one."""
    if name not in ARCHS:
        raise _unknown(name, "", ARCHS)
    return ARCHS[name]


def find_gguf(name: str, num_experts: int = 0) -> Arch:
    """The architecture that GGUF files call `name`; with experts, llama is Mixtral."""
    by_name = {alias: arch for arch in ARCHS.values() for alias in arch.gguf}
    if name not in by_name:
        raise _unknown(name, " in general.architecture", by_name)
    return MIXTRAL if name == "llama" and num_experts else by_name[name]


def find_hf(name: str) -> Arch:
    """The architecture that Hugging Face configs call `name`."""
    by_name = {alias: arch for arch in ARCHS.values() for alias in arch.hf}
    if name not in by_name:
        raise _unknown(name, " in architectures of config.json", by_name)
    return by_name[name]


def _unknown(name: str, where: str, known: Collection[str]) -> CompileError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return CompileError(f"unknown architecture {name!r}{where}, known: {', '.join(known)}{hint}")
