"""What a package recommends for sampling: the part of generation_config.json that requests may leave unsaid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import PackageError, RequestError
from .sampling import SamplingParams

FILE = "generation_config.json"
KEYS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
GREEDY_KEYS = ("repetition_penalty",)
BAN = -100.0  # the bias of `suppress_tokens`
LARGEST = 1 << 20

Defaults = Mapping[str, Any]  # fields of SamplingParams


def read_defaults(package: Path) -> Defaults:
    """Greedy where the file says that it does not sample. Raises PackageError for a value that cannot be meant."""
    path = package / FILE
    if not path.is_file():
        return {}
    if path.stat().st_size > LARGEST:
        raise PackageError(f"{path} has more than {LARGEST} bytes")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = _chosen(values)
        SamplingParams(**found)
    except (ValueError, AttributeError, TypeError, RecursionError, RequestError) as error:
        raise PackageError(f"{path} cannot be used: {error}; load without it (--generation-config none)") from error
    return found


def _chosen(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the file's values, those that have a meaning here. Raises ValueError for what is no number."""
    is_greedy = values.get("do_sample") is False
    keys = GREEDY_KEYS if is_greedy else KEYS
    found: dict[str, Any] = {key: values[key] for key in keys if values.get(key) is not None}
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key} must be a number, got {value!r}")
    if is_greedy:
        found["temperature"] = 0.0
    if values.get("suppress_tokens"):
        found["logit_bias"] = dict.fromkeys(values["suppress_tokens"], BAN)
    return found
