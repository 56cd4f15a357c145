"""For people who look into checkpoints: the tensors of a file as a list, written where MISTRALRS_DEBUG asks for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from .checkpoints.gguf import GGUFTensor
from .errors import CompileError

VARIABLE = "MISTRALRS_DEBUG"


def note_tensors(kind: Literal["gguf", "ggml"], tensors: Iterable[GGUFTensor]) -> None:
    """Writes mistralrs_gguf_tensors.txt (or ggml) into the current folder, if the variable holds a 1."""
    if "1" not in os.environ.get(VARIABLE, ""):
        return
    lines = [f"name = `{each.name}`, shape = {list(each.shape)}, dtype = {_kind(each.type)}" for each in tensors]
    path = Path(f"mistralrs_{kind}_tensors.txt")
    try:
        path.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CompileError(f"{path.resolve()} cannot be written: {error.strerror}; unset {VARIABLE}") from error


def _kind(name: str) -> str:
    """Names of K types without underscore, as in mistral.rs."""
    return name.replace("_K", "K")
