"""Repositories of the hub and their places in the cache that all programs of Hugging Face share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mistralrs_onnx.compiler.errors import CompileError

DEFAULT_REVISION = "main"
PUBLIC_HUB = "https://huggingface.co"


def hub_endpoint() -> str:
    """HF_ENDPOINT as it is now. Raises CompileError."""
    endpoint = (os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")
    if not endpoint.startswith(("https://", "http://")):
        raise CompileError(f"HF_ENDPOINT must begin with https:// or http://, got {endpoint!r}")
    return endpoint


def hub_cache() -> Path:
    """HF_HUB_CACHE or the folder `hub` of HF_HOME, as they are now."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return _path(os.environ[variable])
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _path(os.environ.get("HF_HOME") or f"{shared}/huggingface") / "hub"


def is_offline() -> bool:
    """HF_HUB_OFFLINE as it is now."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _path(text: str) -> Path:
    return Path(os.path.expanduser(os.path.expandvars(text)))


@dataclass(frozen=True, slots=True)
class Repository:
    """`name`: owner/model. The cache keeps contents as `blobs/<etag>`, linked from `snapshots/<commit>/<file name>`."""

    name: str
    revision: str
    endpoint: str
    cache: Path

    def __str__(self) -> str:
        at = "" if self.revision == DEFAULT_REVISION else f" at {self.revision}"
        return f"{self.name}{at} ({self.endpoint})"

    @property
    def url(self) -> str:
        return f"{self.endpoint}/{self.name}"

    @property
    def folder(self) -> Path:
        return self.cache / self._key

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def blob(self, etag: str) -> Path:
        return self.folder / "blobs" / etag

    def lock(self, etag: str) -> Path:
        return self.cache / ".locks" / self._key / f"{etag}.lock"

    def cached(self) -> Path | None:
        """The snapshot of the revision when last it was fetched."""
        ref = self._ref
        snapshot = self.snapshot(ref.read_text(encoding="ascii").strip() if ref.is_file() else self.revision)
        return snapshot if snapshot.is_dir() else None

    def remember(self, commit: str) -> None:
        """Makes `commit` what `cached` finds."""
        if commit != self.revision:
            self._ref.parent.mkdir(parents=True, exist_ok=True)
            self._ref.write_text(commit, encoding="ascii")

    @property
    def _ref(self) -> Path:
        return self.folder / "refs" / self.revision

    @property
    def _key(self) -> str:
        return "models--" + self.name.replace("/", "--")
