"""Opening a package: nothing of it is used before the manifest has been read and each file has been held against it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from mistralrs_onnx.graphs.contract import (
    ADAPTER_NAME,
    ADAPTERS,
    CHAT_TEMPLATE,
    MANIFEST,
    TOKENIZER,
    FileRecord,
    KVDtype,
    Manifest,
)

from .errors import PackageError

CHECK = "compile the model again (mistralrs-compile ... --force)"


class CudaGraphs(NamedTuple):
    """The one that serves, and the one that copies slots."""

    engine: Path
    slots: Path


@dataclass(frozen=True, slots=True)
class Package:
    """A folder whose files are those that its manifest names."""

    path: Path
    manifest: Manifest

    def engine(self, kv_dtype: KVDtype, *, takes_adapters: bool = False) -> Path:
        """Raises PackageError for a KV type that was not compiled."""
        xlora = self.manifest.xlora
        engines = self.manifest.engines if xlora is None else xlora.engines
        engines = self.manifest.lora_engines if takes_adapters else engines
        if kv_dtype not in engines:
            raise PackageError(f"{self.path} has no serving graph for {kv_dtype} keys and values, only {list(engines)}")
        return self.path / engines[kv_dtype]

    def cuda(self) -> CudaGraphs:
        """Raises PackageError where there are none."""
        record = self.manifest.cuda
        if record is None:
            reason = "X-LoRA runs on the CPU only" if self.manifest.xlora else f"it was made before there were: {CHECK}"
            raise PackageError(f"{self.path} has no graph for CUDA, {reason}")
        return CudaGraphs(self.path / record.engine, self.path / record.slots)

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.path / TOKENIZER))

    def chat_template(self) -> str | None:
        path = self.path / CHAT_TEMPLATE
        return path.read_text(encoding="utf-8") if CHAT_TEMPLATE in self.manifest.files else None


def open_package(path: Path, *, verify: bool = False) -> Package:
    """Sizes are always checked, sha256 with `verify`. Raises PackageError."""
    manifest = read_manifest(path)
    for name, record in manifest.files.items():
        _check(path, name, record, verify=verify)
    adapters = {record.file for record in manifest.adapters.values()}
    cuda = set() if manifest.cuda is None else {manifest.cuda.engine, manifest.cuda.slots}
    engines = {*manifest.engines.values(), *manifest.lora_engines.values()}
    missing = ({TOKENIZER} | engines | cuda | adapters) - set(manifest.files)
    if missing:
        raise PackageError(f"{path / MANIFEST} does not list {', '.join(sorted(missing))}: {CHECK}")
    return Package(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """Raises PackageError."""
    try:
        return Manifest.from_json((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PackageError(f"{path} is no package: it has no {MANIFEST}; make one with mistralrs-compile") from error
    except NotADirectoryError as error:
        raise PackageError(f"{path} is a file, and a package is a folder: make one with mistralrs-compile") from error
    except OSError as error:
        raise PackageError(f"{path / MANIFEST} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PackageError(f"{path / MANIFEST} cannot be used: {error}: {CHECK}") from error


def _is_inside(folder: Path, name: str) -> bool:
    """Of folders a package has only that of its adapters."""
    if re.fullmatch(rf"{ADAPTERS}/{ADAPTER_NAME}\.(safetensors|onnx_adapter)", name):
        return not (folder / ADAPTERS).is_symlink()
    return Path(name).name == name


def _check(folder: Path, name: str, record: FileRecord, *, verify: bool) -> None:
    path = folder / name
    if not _is_inside(folder, name) or path.is_symlink() or not path.is_file():
        raise PackageError(f"{path} must be a file inside the package: {CHECK}")
    size = path.stat().st_size
    if size != record.size:
        raise PackageError(f"{path} has {size} bytes, the manifest says {record.size}: {CHECK}")
    if verify:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != record.sha256:
            raise PackageError(f"{path} has sha256 {digest}, the manifest says {record.sha256}: {CHECK}")
