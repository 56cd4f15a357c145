"""Reads the key-value pairs of a GGUF header: numbers, strings, and arrays of either; no key means anything here."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from .cursor import U64, Cursor, FieldError
from .metadata import Value

MAX_NESTING = 4
NESTED_COST = 16  # items that an array inside an array counts for

STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


def read_pairs(cursor: Cursor, num_keys: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for i in range(num_keys):
        key = cursor.name(f"key {i}")
        if not key or key in values:
            raise FieldError(f"key {i}", "a new name", repr(key[:80]))
        values[key] = _value(cursor, cursor.u32(f"type of {key}"), key, 0)
    return values


def _value(cursor: Cursor, kind: int, key: str, nesting: int) -> Value:
    if kind == STRING:
        return cursor.string(key)
    if kind == ARRAY:
        return _array(cursor, key, nesting + 1)
    return _numbers(cursor, kind, 1, key).tolist()[0]  # type: ignore[no-any-return]


def _array(cursor: Cursor, key: str, nesting: int) -> Value:
    if nesting > MAX_NESTING:
        raise FieldError(key, f"arrays nested at most {MAX_NESTING} deep", "deeper")
    kind = cursor.u32(f"element type of {key}")
    length = cursor.u64(f"length of {key}")
    if kind == STRING:
        return _strings(cursor, length, key)
    if kind == ARRAY:
        cursor.charge(length * NESTED_COST, key)
        return [_array(cursor, key, nesting + 1) for _ in range(length)]
    return _numbers(cursor, kind, length, key)


def _numbers(cursor: Cursor, kind: int, length: int, key: str) -> NDArray[np.generic]:
    if kind not in NUMBERS:
        raise FieldError(f"type of {key}", "a metadata type, 0 to 12", kind)
    dtype = np.dtype(NUMBERS[kind])
    start = cursor.need(length * dtype.itemsize, key)
    numbers = np.frombuffer(cursor.header[start : cursor.position], dtype)
    if kind != BOOL:
        return numbers
    if numbers.size and numbers.max() > 1:
        raise FieldError(key, "0 or 1, a boolean", numbers.max())
    return numbers.astype(np.bool_)


def _strings(cursor: Cursor, length: int, key: str) -> list[str]:
    """One loop without calls of ours: vocabularies have hundreds of thousands of strings."""
    cursor.charge(length, key)
    header, position, end = cursor.header, cursor.position, len(cursor.header)
    read_length = U64.unpack_from
    strings: list[str] = []
    try:
        for _ in range(length):
            start = position + 8
            position = start + read_length(header, position)[0]
            if position > end:
                break
            strings.append(str(header[start:position], "utf-8"))
    except (struct.error, UnicodeDecodeError):
        pass
    if len(strings) == length:
        cursor.position = position
    else:
        _name_fault(cursor, strings, length, key)
    return strings


def _name_fault(cursor: Cursor, strings: list[str], length: int, key: str) -> None:
    """Reads the first bad string again, with checks that say what is wrong."""
    cursor.position += sum(8 + len(string.encode()) for string in strings)
    for i in range(len(strings), length):
        cursor.string(f"{key}[{i}]")
