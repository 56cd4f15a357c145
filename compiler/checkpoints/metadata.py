"""Key-value metadata of a checkpoint, read by the type that the reader needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.compiler.errors import CompileError

Numbers = NDArray[np.generic]
Value = bool | int | float | str | Numbers | list[str] | list["Value"]


class Metadata(Mapping[str, Value]):
    """A mapping whose typed reads raise CompileError for a value that is missing or of another type.

    Arrays of numbers are numpy arrays, arrays of strings are lists. A read without default needs the key. `path` is
    the file that errors name.
    """

    def __init__(self, values: Mapping[str, Value], path: Path | None = None) -> None:
        self._values = values
        self._path = path

    def __getitem__(self, key: str) -> Value:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def string(self, key: str, default: str | None = None) -> str:
        value = self._read(key, default, "a string")
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._read(key, default, "true or false")
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._read(key, default, "an integer")
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "an integer", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._read(key, default, "a number")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, "a number", value)
        return value

    def strings(self, key: str) -> list[str]:
        value = self._read(key, None, "an array of strings")
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "an array of strings", value)
        return [str(item) for item in value]

    def integers(self, key: str) -> NDArray[np.int64]:
        value = self._read(key, None, "an array of integers")
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
            raise self._wrong(key, "an array of integers", value)
        return value.astype(np.int64)

    def _read(self, key: str, default: Value | None, kind: str) -> Value:
        value = self._values.get(key, default)
        if value is None:
            raise self.error(f"the file lacks metadata key {key} ({kind}): it is damaged or made for another program")
        return value

    def _wrong(self, key: str, kind: str, value: Value) -> CompileError:
        return self.error(f"metadata key {key} must be {kind}, got {_brief(value)}")

    def error(self, text: str) -> CompileError:
        """What is wrong with the file, to be raised."""
        return CompileError(text if self._path is None else f"{self._path}: {text}")


def _brief(value: Value) -> str:
    if isinstance(value, list | np.ndarray):
        return f"an array of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
