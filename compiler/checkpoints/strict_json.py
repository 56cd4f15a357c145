"""Parses JSON that strangers wrote: bounded in memory, and no name twice in an object."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .cursor import MAX_ITEMS, FieldError

MAX_JSON = 16 << 20  # bytes of text; a header of 100,000 tensors takes 12 MB


def parse_object(text: bytes, field: str) -> dict[str, Any]:
    """The object that a text consists of. Raises FieldError, which names `field`, for any other text."""
    if len(text) > MAX_JSON:
        raise FieldError(field, f"at most {MAX_JSON} bytes of JSON", len(text))
    # Every value but the first follows one of these, so that this bounds the objects that parsing makes.
    if sum(text.count(mark) for mark in (b"[", b"{", b",")) > MAX_ITEMS:
        raise FieldError(field, f"at most {MAX_ITEMS} JSON values", "more")
    try:
        value = json.loads(text.decode(), object_pairs_hook=lambda pairs: _unique(pairs, field))
    except (ValueError, RecursionError) as error:
        raise FieldError(field, "JSON", error) from None
    if not isinstance(value, dict):
        raise FieldError(field, "a JSON object", type(value).__name__)
    return value


def _unique(pairs: Iterable[tuple[str, Any]], field: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise FieldError(f"names in {field}", "different", f"{name[:80]!r} twice")
        values[name] = value
    return values
