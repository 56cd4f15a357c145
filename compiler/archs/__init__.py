"""Architectures: each file turns a config into a tree of specs."""

from __future__ import annotations

import difflib

from mistralrs_onnx.compiler.errors import CompileError

from .arch import Arch
from .llama import LLAMA

ARCHS: dict[str, Arch] = {arch.name: arch for arch in (LLAMA,)}


def find_gguf(name: str) -> Arch:
    """The architecture that GGUF files call `name`. Raises CompileError for an unknown one."""
    by_name = {alias: arch for arch in ARCHS.values() for alias in arch.gguf}
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CompileError(f"unknown architecture {name!r} in general.architecture, known: {', '.join(by_name)}{hint}")
    return by_name[name]
