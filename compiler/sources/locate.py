"""From what a user calls a model to a folder with its files: a path of this machine first, else the hub."""

from __future__ import annotations

import difflib
import logging
import os
import re
from pathlib import Path

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.progress import Report, quiet

from .failures import UnreachableError
from .hub import download
from .repository import DEFAULT_REVISION, Repository, hub_cache, hub_endpoint, is_offline
from .token_source import CACHED, TokenSource
from .wanted import Wanted, check_inside, select

logger = logging.getLogger(__name__)

REPOSITORY = re.compile(r"(?!.*(--|\.\.))([\w-][\w.-]{0,95}/)?[\w-][\w.-]{0,95}", re.ASCII)
CHECKPOINT_FILE = re.compile(r".*\.(gguf|ggml|safetensors|bin|pt|pth)")


def locate(
    model_id: str,
    *,
    wanted: Wanted,
    revision: str | None = None,
    token_source: TokenSource = CACHED,
    offline: bool = False,
    report: Report = quiet,
) -> Path:
    """The local file or folder `model_id`, or the folder of the cache that holds what is wanted of that repository.

    Only missing files are fetched, and an interrupted one goes on where it stopped. Without a connection the last
    complete download serves. `offline` (or HF_HUB_OFFLINE) asks nobody. Raises CompileError.
    """
    path = Path(os.path.expanduser(model_id))
    if model_id and os.path.exists(path):
        return path
    if not REPOSITORY.fullmatch(model_id) or CHECKPOINT_FILE.fullmatch(model_id):
        raise CompileError(f"there is no file or folder {path}{_nearest(path)}, and it does not name a repository")
    repository = Repository(model_id, check_inside(revision or DEFAULT_REVISION), hub_endpoint(), hub_cache())
    if offline or is_offline():
        return _from_cache(repository, wanted, path)
    try:
        return download(repository, wanted, token_source, report)
    except UnreachableError as error:
        return _after_failure(repository, wanted, error)


def _from_cache(repository: Repository, wanted: Wanted, path: Path) -> Path:
    fetch = f"fetch it once without --offline and HF_HUB_OFFLINE (needed: {wanted})"
    snapshot = repository.cached()
    if snapshot is None:
        raise CompileError(
            f"there is no folder {path}{_nearest(path)}, and {repository} is not in {repository.cache}: {fetch}"
        )
    try:
        _check_complete(snapshot, wanted, repository)
    except CompileError as error:
        raise CompileError(
            f"offline, the copy of {repository} in {snapshot} is not enough ({error}): {fetch}"
        ) from error
    return snapshot


def _after_failure(repository: Repository, wanted: Wanted, error: UnreachableError) -> Path:
    snapshot = repository.cached()
    if snapshot is None:
        raise error
    try:
        _check_complete(snapshot, wanted, repository)
    except CompileError:
        raise error from None
    logger.warning("%s Using the copy from the last download, %s.", error, snapshot)
    return snapshot


def _check_complete(snapshot: Path, wanted: Wanted, repository: Repository) -> None:
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    select(names, wanted, f"the cached {repository}", lambda name: (snapshot / name).read_bytes())


def _nearest(path: Path) -> str:
    if not os.access(path.parent, os.R_OK | os.X_OK) or not path.parent.is_dir():
        return ""
    near = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], 1)
    return f" (did you mean {path.with_name(near[0])}?)" if near else ""
