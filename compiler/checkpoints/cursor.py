"""Reads the fields of a binary header front to back, never past what is there; knows no format."""

from __future__ import annotations

import mmap
import struct

from mistralrs_onnx.compiler.errors import CompileError

MAX_HEADER = 32 << 20  # bytes before the tensor data; 260,000 tokens with merges take 20 MB
MAX_ITEMS = 1 << 20  # strings and arrays inside arrays: what costs a Python object each
MAX_NAME = 1 << 16  # bytes of a key or tensor name

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


class FieldError(CompileError):
    """A field of the file that is not what it must be."""

    def __init__(self, field: str, expected: str, got: object) -> None:
        super().__init__(f"{field} must be {expected}, got {got}")


class Cursor:
    """Reads the header front to back; every length is checked against what is left before it is used."""

    def __init__(self, header: mmap.mmap | bytes, file_size: int) -> None:
        self.header = header
        self.position = 0
        self.items = 0
        self._end = len(header)
        self._whole = file_size <= self._end

    def need(self, num_bytes: int, field: str) -> int:
        """Position of the next `num_bytes`, which are then behind the cursor."""
        start = self.position
        if num_bytes > self._end - start:
            limit = "the file" if self._whole else f"the header limit of {MAX_HEADER} bytes"
            raise FieldError(field, f"within {limit}", f"{num_bytes} bytes with {self._end - start} left")
        self.position = start + num_bytes
        return start

    def u32(self, field: str) -> int:
        value: int = U32.unpack_from(self.header, self.need(4, field))[0]
        return value

    def u64(self, field: str) -> int:
        value: int = U64.unpack_from(self.header, self.need(8, field))[0]
        return value

    def count(self, field: str, most: int) -> int:
        value = self.u64(field)
        if value > most:
            raise FieldError(field, f"at most {most}", value)
        return value

    def string(self, field: str) -> str:
        return decoded(self.raw(self.u64(f"length of {field}"), field), field)

    def name(self, field: str) -> str:
        return decoded(self.raw(self.count(f"length of {field}", MAX_NAME), field), field)

    def raw(self, num_bytes: int, field: str) -> bytes:
        start = self.need(num_bytes, field)
        return self.header[start : start + num_bytes]

    def charge(self, items: int, field: str) -> None:
        self.items += items
        if self.items > MAX_ITEMS:
            raise FieldError(field, f"at most {MAX_ITEMS} strings and arrays in all metadata", "more")


def decoded(raw: bytes, field: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise FieldError(field, "UTF-8", f"byte {raw[error.start]:#04x} at {error.start}") from None
