"""What is in the compile cache: packages, what interrupted compiles left there, and things that are not ours."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mistralrs_onnx.graphs.contract import MANIFEST
from mistralrs_onnx.inspecting.package_files import Hashing, check_files, silent
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.package import read_manifest

from .cache_places import Origin, digests_folder, note_place, packages_folder, read_note

# unusable: a folder that this version cannot use; leftover: of an interrupted compile; foreign: not made by us
State = Literal["package", "unusable", "leftover", "compiling", "foreign"]

DELETABLE: tuple[State, ...] = ("package", "unusable", "leftover")
WORK = re.compile(r"\..+\.(?:tmp-(\d+)|old)")  # as compiler/package.py names folders that are not done
DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Entry:
    """Times are seconds since 1970. `used`: None when unknown. `problem`: why it is unusable."""

    name: str
    path: Path
    state: State
    size: int
    made: float
    used: float | None = None
    origin: Origin | None = None
    problem: str | None = None


def entries() -> list[Entry]:
    """Everything in the folder of packages, by name."""
    folder, found = packages_folder(), []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # a compile that ends meanwhile renames its folder
            found.append(_entry(path))
    return found


def _entry(path: Path) -> Entry:
    if path.is_symlink() or not path.is_dir():
        return Entry(path.name, path, "foreign", 0, path.lstat().st_mtime)
    size, made = folder_size(path), path.stat().st_mtime
    work = WORK.fullmatch(path.name)
    if work is not None:
        return Entry(path.name, path, "compiling" if _is_at_work(work[1], made) else "leftover", size, made)
    try:
        read_manifest(path)
    except PackageError as error:
        return Entry(path.name, path, "unusable", size, made, problem=str(error))
    note = note_place(path.name)
    used = note.stat().st_mtime if note.is_file() else None
    return Entry(path.name, path, "package", size, (path / MANIFEST).stat().st_mtime, used, read_note(path.name))


def _is_at_work(process: str | None, changed: float) -> bool:
    """Numbers of processes return: no compile takes a day."""
    if process is None or time.time() - changed > DAY:
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def folder_size(folder: Path) -> int:
    """Bytes of all files; links count as what they are."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def delete(entry: Entry) -> None:
    """Takes a package out of sight first, so that nobody finds half of it. Raises OSError."""
    assert entry.state in DELETABLE
    path = entry.path
    if not entry.name.startswith("."):
        path = entry.path.with_name(f".{entry.name}.old")
        shutil.rmtree(path, ignore_errors=True)
        entry.path.rename(path)
    shutil.rmtree(path)
    note_place(entry.name).unlink(missing_ok=True)


def forget_digests() -> None:
    """They are computed again when they are needed."""
    shutil.rmtree(digests_folder(), ignore_errors=True)


def problems(entry: Entry, hashing: Hashing = silent) -> Iterator[str]:
    """What is wrong with a package, each file held against the manifest. Raises PackageError for unreadable files."""
    if entry.problem is not None:
        yield entry.problem
    if entry.state == "package":
        for file in check_files(entry.path, read_manifest(entry.path), verify=True, hashing=hashing):
            if file.problem is not None:
                yield f"{file.name} {file.problem}"
