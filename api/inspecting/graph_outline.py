"""An ONNX file without its weights: they are skipped in the file, so that a graph of gigabytes costs none."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from mistralrs_onnx.runtime.errors import PackageError

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # wire types
FIXED = {EIGHT_BYTES: 8, FOUR_BYTES: 4}

# Field numbers of onnx.proto: messages to look into, and None for what is left out.
Plan = Mapping[int, "Plan | None"]
TENSOR: Plan = dict.fromkeys((4, 5, 6, 7, 9, 10, 11))  # values, in whichever field
NODE: Plan = {5: {5: TENSOR}}  # a tensor as attribute
MODEL: Plan = {7: {1: NODE, 5: TENSOR}}  # the graph's nodes and initializers


def read_outline(path: Path) -> onnx.ModelProto:
    """Types and shapes of initializers are kept, their values are not. Raises PackageError."""
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        model = onnx.ModelProto()
        model.ParseFromString(b"".join(_kept(content, MODEL)))
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # the parser raises types of its own
        raise PackageError(f"{path} is no ONNX graph, or a damaged one: {error}") from error
    if not model.graph.node:
        raise PackageError(f"{path} is no ONNX graph: it has no nodes")
    return model


def _kept(content: memoryview, plan: Plan) -> Iterator[bytes]:
    """The fields of a message but for those that the plan leaves out. Raises ValueError."""
    place = 0
    while place < len(content):
        start = place
        tag, place = _varint(content, place)
        size = _size(content, tag, place)
        if tag & 7 == BYTES:
            size, place = _varint(content, place)
        if size > len(content) - place:
            raise ValueError(f"field {tag >> 3} is longer than the file")
        inner = plan.get(tag >> 3, {})
        if inner and tag & 7 == BYTES:
            kept = b"".join(_kept(content[place : place + size], inner))
            yield _written(tag) + _written(len(kept)) + kept
        elif inner is not None:
            yield bytes(content[start : place + size])
        place += size


def _size(content: memoryview, tag: int, place: int) -> int:
    """Bytes of a value that does not begin with its length."""
    if tag & 7 == VARINT:
        return _varint(content, place)[1] - place
    if tag & 7 in FIXED:
        return FIXED[tag & 7]
    if tag & 7 != BYTES:
        raise ValueError(f"field {tag >> 3} has the unknown wire type {tag & 7}")
    return 0


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for i, byte in enumerate(content[place : place + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, place + i + 1
    raise ValueError(f"an integer is damaged at byte {place}")


def _written(value: int) -> bytes:
    text = bytearray()
    while value > 127:
        text.append(value & 127 | 128)
        value >>= 7
    return bytes([*text, value])
