"""Where models run: on the processor, or on a graphics card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .errors import PackageError

KNOWN = "cpu, cuda or cuda:N"


@dataclass(frozen=True, slots=True)
class Device:
    """`kind` is ONNX Runtime's name for it. `index`: of several of its kind."""

    kind: Literal["cpu", "cuda"] = "cpu"
    index: int = 0

    @property
    def is_cuda(self) -> bool:
        return self.kind == "cuda"

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.is_cuda else "cpu"


CPU = Device()


def parse_device(text: str) -> Device:
    """Of "cpu", "cuda" (the first one) or "cuda:1". Raises PackageError."""
    if text == "cpu":
        return CPU
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", text)
    if match is None:
        raise PackageError(f"device must be {KNOWN}, got {text!r}")
    return Device("cuda", int(match[1] or 0))
