"""The wire format of protocol buffers, as much as reading a known message takes; every length is checked."""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # wire types
MAX_NUMBERS = 1000
FIXED = {EIGHT_BYTES: 8, FOUR_BYTES: 4}


class WireError(ValueError):
    """Bytes that are no message, or not the one that was expected."""


class Message:
    """Fields by number. Reading one that is absent gives its default; of one that is repeated, the last."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        for number, value in _fields(memoryview(content)):
            self._fields.setdefault(number, []).append(value)
            if len(self._fields) > MAX_NUMBERS:
                raise WireError(f"a message must have at most {MAX_NUMBERS} different fields")

    def messages(self, number: int) -> Iterator[Message]:
        return (Message(_bytes(value, number)) for value in self._fields.get(number, []))

    def message(self, number: int) -> Message:
        return Message(self._last(number))

    def text(self, number: int) -> bytes:
        return bytes(self._last(number))

    def integer(self, number: int, default: int) -> int:
        """A number of 32 bits or true or false; negative ones are written in two's complement of 64 bits."""
        value = self._fields.get(number, [default])[-1]
        if not isinstance(value, int):
            raise WireError(f"field {number} must be an integer")
        return value - (1 << 64) if value >= 1 << 63 else value

    def number(self, number: int) -> float:
        """A float, 0 where it is absent."""
        content = self._last(number)
        if len(content) not in (0, 4):
            raise WireError(f"field {number} must be a float of 4 bytes")
        return float(struct.unpack("<f", content)[0]) if content else 0.0

    def _last(self, number: int) -> memoryview:
        return _bytes(self._fields.get(number, [memoryview(b"")])[-1], number)


def _bytes(value: int | memoryview, number: int) -> memoryview:
    if isinstance(value, int):
        raise WireError(f"field {number} must not be an integer")
    return value


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, place = _varint(content, place)
            yield number, value
            continue
        size = FIXED.get(wire, -1)
        if wire == BYTES:
            size, place = _varint(content, place)
        if size < 0 or size > len(content) - place:
            raise WireError(f"field {number} is damaged at byte {place}")
        yield number, content[place : place + size]
        place += size


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(content[place : place + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, place + i + 1
    raise WireError(f"an integer is damaged at byte {place}")
