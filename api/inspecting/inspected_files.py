"""Sizes and sha256 sums of files beside which no manifest need be."""

from __future__ import annotations

import re
from pathlib import Path

from mistralrs_onnx.graphs.contract import MANIFEST
from mistralrs_onnx.runtime.package import read_manifest

from .inspection import FileFacts
from .package_files import Hashing, sha256

SUM = re.compile(r"[0-9a-f]{64}")  # how the hub's cache names the files that it downloads


def file_facts(path: Path, *, verify: bool, hashing: Hashing) -> FileFacts:
    """With `verify` the sum is computed, and compared where one is recorded. Raises PackageError."""
    if not path.is_file():
        return FileFacts(path.name, 0, None, "is missing")
    size, recorded = path.stat().st_size, _recorded(path)
    if not verify:
        return FileFacts(path.name, size, recorded)
    hashing(path.name)
    found = sha256(path)
    problem = "has another sha256" if recorded not in (None, found) else None
    return FileFacts(path.name, size, recorded or found, problem, is_compared=recorded is not None)


def _recorded(path: Path) -> str | None:
    """In the manifest of the package that the file is of, or by the hub."""
    if (path.parent / MANIFEST).is_file():
        record = read_manifest(path.parent).files.get(path.name)
        return None if record is None else record.sha256
    name = path.resolve().name
    return name if SUM.fullmatch(name) else None
