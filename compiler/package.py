"""Writing a package folder: all or nothing, each file hashed, equal inputs giving equal bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mistralrs_onnx.graphs.contract import MANIFEST, FileRecord

from .errors import CompileError


@contextmanager
def package_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and disappears when it does not.

    Raises CompileError when `out` exists and is not ours to replace.
    """
    check_replaceable(out, force=force)
    work = out.parent / f".{out.name}.tmp-{os.getpid()}"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield work
        _swap(work, out)
    except OSError as error:
        advice = ": make room, or choose another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise CompileError(f"cannot write {out}: {error.strerror or error}{advice}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_replaceable(out: Path, *, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise CompileError(f"{out} exists: choose another place, or replace it with --force")
    if not (out / MANIFEST).is_file():
        raise CompileError(f"{out} is not a package (it has no {MANIFEST}): --force replaces only packages")


def _swap(work: Path, out: Path) -> None:
    aside = work.with_suffix(".old")
    if out.exists():
        out.rename(aside)
    work.rename(out)
    shutil.rmtree(aside, ignore_errors=True)


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and sha256 of every file, by its name in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _record(path) for path in files}


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
