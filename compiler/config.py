"""What a checkpoint says about its model, under the keys of Hugging Face configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import CompileError


@dataclass(frozen=True, slots=True)
class Config:
    """Values by key; every read says what it wants, so that a bad value is named and not computed with."""

    values: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise CompileError(f"config key {key} must be a positive integer, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self.values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise CompileError(f"config key {key} must be a positive number, got {value!r}")
        return float(value)
