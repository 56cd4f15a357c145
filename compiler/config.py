"""What a checkpoint says about its model, under the keys of Hugging Face configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import CompileError


@dataclass(frozen=True, slots=True)
class Config:
    """Values by key; every read says what it wants, so that a bad value is named and not computed with.

    A value that is null counts as missing.
    """

    values: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise CompileError(f"config key {key} must be a positive integer, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise CompileError(f"config key {key} must be a positive number, got {value!r}")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise CompileError(f"config key {key} must be true or false, got {value!r}")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise CompileError(f"config key {key} must be a string, got {value!r}")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Positive finite numbers."""
        value = self._get(key, None)
        if not isinstance(value, list | tuple) or not value:
            raise CompileError(f"config key {key} must be a list of numbers, got {value!r}")
        return tuple(Config({key: item}).number(key) for item in value)

    def texts(self, key: str, length: int) -> tuple[str, ...]:
        value = self._get(key, None)
        if not isinstance(value, list) or len(value) != length or not all(isinstance(item, str) for item in value):
            raise CompileError(f"config key {key} must be a list of {length} strings, got {value!r}")
        return tuple(value)

    def part(self, key: str) -> Config:
        """The object under a key; an empty one when it is missing."""
        value = self._get(key, {})
        if not isinstance(value, Mapping):
            raise CompileError(f"config key {key} must be an object, got {value!r}")
        return Config(value)

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value
