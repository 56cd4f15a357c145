"""Reads files that lie beside a checkpoint: bounded, and with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import orjson

from mistralrs_onnx.compiler.errors import CompileError

from .layout import Json

MAX_FILE = 64 << 20  # bytes; the largest tokenizer.json that we know of has 35 MB


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """Raises CompileError for a file that cannot be read or is larger than `limit`."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise CompileError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise CompileError(f"{path} must have at most {limit} bytes, got more: it is no such file")
    return content


def parse_object(content: bytes, path: Path) -> Json:
    """Raises CompileError for anything but one JSON object."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise CompileError(f"{path} must be JSON: {error}") from error
    if not isinstance(value, dict):
        raise CompileError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def read_object(path: Path) -> Json:
    return parse_object(read_file(path), path)


def read_optional(path: Path) -> Json:
    """The object in a file that need not be there."""
    return read_object(path) if path.exists() else {}


def read_text(path: Path, limit: int) -> str:
    try:
        return read_file(path, limit).decode()
    except UnicodeDecodeError as error:
        raise CompileError(f"{path} must be UTF-8: {error}") from error
