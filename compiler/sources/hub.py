"""Fetches files of a repository into the shared cache, each once, and goes on with what was interrupted."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.progress import Progress, Report

from .failures import Access, UnreachableError, hub_failures
from .library import hub_library
from .repository import Repository
from .token_source import TokenSource
from .wanted import Wanted, select

LIBRARY = "mistralrs-onnx"
PATIENCE = 30.0  # seconds for the list of files
LARGEST_BY_HTTP = 50_000_000_000  # bytes; the hub serves larger files by its own protocol only
RESERVE = 64 << 20  # bytes that a disk keeps free
COMMIT = re.compile("[0-9a-f]{7,64}")
GIT, SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")


class RemoteFile(NamedTuple):
    """`etag`: sha256 of large files, git's id of others."""

    size: int
    etag: str


class Listing(NamedTuple):
    """What a revision is."""

    commit: str
    files: Mapping[str, RemoteFile]


def download(repository: Repository, wanted: Wanted, token_source: TokenSource, report: Report) -> Path:
    """The snapshot folder with all that is wanted. Raises CompileError."""
    token = token_source.read()
    with hub_failures(repository, Access(token_source, is_sent=token is not None)):
        listing = _list(repository, token)
        fetch = _Fetch(repository, listing, token, report)
        names = select(listing.files, wanted, str(repository), fetch.content)
        fetch.all(names)
        repository.remember(listing.commit)  # only now, so that `cached` finds whole snapshots
    return fetch.snapshot


def _list(repository: Repository, token: str | None) -> Listing:
    library = hub_library()
    hub = library.HfApi(
        endpoint=repository.endpoint, token=token or False, library_name=LIBRARY, library_version=version(LIBRARY)
    )
    try:
        info = hub.model_info(repository.name, revision=repository.revision, timeout=PATIENCE, files_metadata=True)
        files = {file.rfilename: RemoteFile(file.size or 0, _etag(file)) for file in info.siblings or ()}
        if not COMMIT.fullmatch(info.sha):
            raise ValueError("the answer names no commit")
    except library.errors.HfHubHTTPError:
        raise
    except library.errors.HFValidationError as error:
        raise CompileError(f"{repository.name} is no local path and no name of a repository: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnreachableError(f"{repository.endpoint} does not answer as a hub does: check HF_ENDPOINT.") from error
    return Listing(info.sha, files)


def _etag(file: Any) -> str:
    return (file.lfs.sha256 if file.lfs else file.blob_id) or ""


@dataclass(frozen=True, slots=True)
class _Fetch:
    repository: Repository
    listing: Listing
    token: str | None
    report: Report

    @property
    def snapshot(self) -> Path:
        return self.repository.snapshot(self.listing.commit)

    def content(self, name: str) -> bytes:
        self.all([name])
        return (self.snapshot / name).read_bytes()

    def all(self, names: Iterable[str]) -> None:
        missing = [name for name in names if not (self.snapshot / name).exists()]
        sizes = [self.listing.files[name].size for name in missing]
        _check_space(self.repository.cache, sum(sizes))
        for i, name in enumerate(missing):
            self._one(name, _Bar(self.report, sum(sizes[:i]), sum(sizes)))
            self.report(Progress("download", sum(sizes[: i + 1]), sum(sizes)))

    def _one(self, name: str, bar: _Bar) -> None:
        file = self.listing.files[name]
        if (GIT.fullmatch(file.etag) or SHA256.fullmatch(file.etag)) and file.size <= LARGEST_BY_HTTP:
            self._transfer(name, file, bar)
        # Links the blob into the snapshot; brings what `_transfer` left out.
        hub_library().hf_hub_download(
            self.repository.name,
            name,
            revision=self.listing.commit,
            endpoint=self.repository.endpoint,
            cache_dir=self.repository.cache,
            token=self.token or False,
            library_name=LIBRARY,
            library_version=version(LIBRARY),
            tqdm_class=partial(hub_library().utils.tqdm, disable=True),
        )

    def _transfer(self, name: str, file: RemoteFile, bar: _Bar) -> None:
        """Into a part that outlives an interruption: the library throws away what it has not finished."""
        library, blob, lock = hub_library(), self.repository.blob(file.etag), self.repository.lock(file.etag)
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with library.utils.WeakFileLock(str(lock)):
            if blob.exists():
                return
            part = blob.with_name(f"{file.etag}.part")
            if part.exists() and part.stat().st_size > file.size:
                part.unlink()
            with part.open("ab") as out:
                library.file_download.http_get(
                    library.hf_hub_url(
                        self.repository.name,
                        name,
                        revision=self.listing.commit,
                        endpoint=self.repository.endpoint,
                    ),
                    out,
                    resume_size=out.tell(),
                    headers=self._headers(),
                    expected_size=file.size,
                    displayed_filename=name,
                    tqdm_class=bar.started,
                )
            _check_content(part, file.etag, name)
            part.replace(blob)

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = hub_library().utils.build_hf_headers(
            token=self.token or False, library_name=LIBRARY, library_version=version(LIBRARY)
        )
        return headers | {"Accept-Encoding": "identity"}  # compressed bytes cannot be resumed


def _check_content(part: Path, etag: str, name: str) -> None:
    with part.open("rb") as file:
        if SHA256.fullmatch(etag):
            found = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            prefix = hashlib.sha1(b"blob %d\0" % part.stat().st_size, usedforsecurity=False)
            found = hashlib.file_digest(file, prefix.copy).hexdigest()
    if found != etag:
        part.unlink()
        raise CompileError(f"what arrived of {name} is not what the hub announced ({found}, not {etag}): try again")


def _check_space(cache: Path, needed: int) -> None:
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed and needed + RESERVE > free:
        raise CompileError(
            f"{needed / 1e9:.2f} GB are to be fetched into {cache}, whose disk has {free / 1e9:.2f} GB free: "
            "make room, or set HF_HOME"
        )


class _Bar:
    """Stands in for the progress bar of the library, and reports instead of drawing."""

    def __init__(self, report: Report, before: int, total: int) -> None:
        self._report = report
        self._before = before
        self._total = total
        self._done = 0

    def started(
        self,
        *,
        total: int | None = None,
        initial: int = 0,
        unit: str = "B",
        unit_scale: bool = True,
        desc: str = "",
    ) -> Self:
        self._done = initial
        return self

    def update(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._report(Progress("download", self._before + self._done, self._total))

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
