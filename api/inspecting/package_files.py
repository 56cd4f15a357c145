"""Whether the files of a package are those that its manifest names; every difference is found, not only the first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mistralrs_onnx.graphs.contract import FileRecord, Manifest
from mistralrs_onnx.runtime.errors import PackageError

Hashing = Callable[[str], None]  # told the name of each file before it is read


class FileState(NamedTuple):
    """A file as the manifest has it. `problem`: how the one in the folder differs, as far as that was checked."""

    name: str
    size: int
    sha256: str
    problem: str | None


def silent(name: str) -> None:
    """Tells nobody."""


def check_files(folder: Path, manifest: Manifest, *, verify: bool, hashing: Hashing = silent) -> Iterator[FileState]:
    """Sizes are always compared, sha256 sums with `verify`."""
    for name, record in manifest.files.items():
        yield FileState(name, record.size, record.sha256, _problem(folder, name, record, hashing if verify else None))


def _problem(folder: Path, name: str, record: FileRecord, hashing: Hashing | None) -> str | None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or path.is_symlink():
        return "leads out of the package"
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != record.size:
        return f"has {size} bytes, not {record.size}"
    if hashing is not None:
        hashing(name)
        if sha256(path) != record.sha256:
            return "has another sha256"
    return None


def sha256(path: Path) -> str:
    """Raises PackageError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from error
