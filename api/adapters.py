"""Adapters of a loaded model: read from folders, checked against it, and loaded and unloaded while it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from mistralrs_onnx.compiler.adapters.files import AdapterFiles, in_folder
from mistralrs_onnx.compiler.adapters.peft import AdapterLimits, read_files
from mistralrs_onnx.compiler.archs import find_arch
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.packaged_adapters import read_packaged
from mistralrs_onnx.graphs.contract import ADAPTER_NAME, AdapterRecord, Manifest
from mistralrs_onnx.runtime.adapter_registry import AdapterCaps, AdapterRegistry, Part
from mistralrs_onnx.runtime.adapters import Adapter, pack_adapter
from mistralrs_onnx.runtime.errors import PackageError, RequestError
from mistralrs_onnx.runtime.package import Package

DEFAULT = "default"  # what requests call the model, whatever its name is


class Packaged(NamedTuple):
    """An adapter that a package carries."""

    folder: Path
    record: AdapterRecord


Place = Path | AdapterFiles | Packaged


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """`modules`: folders of adapters, or their files, to load at the start, by name. `active`: which of them requests
    get that do not say. `root`: the folder that others may be loaded from later; None: none may.
    """

    modules: Mapping[str, Place] = field(default_factory=dict)
    active: tuple[str, ...] = ()
    root: Path | None = None
    caps: AdapterCaps = AdapterCaps()


def with_packaged(options: AdapterOptions | None, package: Package) -> AdapterOptions | None:
    """With the adapters that the package carries, which turn adapters on. Raises PackageError for names in doubt."""
    manifest = package.manifest
    if not manifest.adapters:
        return options
    options = options or AdapterOptions()
    for name in manifest.adapters.keys() & options.modules.keys():
        raise PackageError(f"{package.path} carries an adapter {name}: give yours another name")
    carried = {name: Packaged(package.path, record) for name, record in manifest.adapters.items()}
    active = options.active or manifest.active_adapters
    return replace(options, modules={**carried, **options.modules}, active=active)


class Adapters:
    """Any thread may call; what takes long, reading and packing, holds no lock."""

    def __init__(self, manifest: Manifest, options: AdapterOptions) -> None:
        """Raises PackageError for a folder that cannot be loaded."""
        self.registry = AdapterRegistry(options.caps)
        self._model = manifest.name
        self._groups = manifest.lora
        self._arch = find_arch(manifest.architecture)
        self._shapes = {name: record.shape for name, record in manifest.tensors.items()}
        self._root = None if options.root is None else options.root.resolve()
        if self._root is not None and not self._root.is_dir():
            raise PackageError(f"{options.root}: no such folder: adapters cannot be loaded from there")
        try:
            for name, place in options.modules.items():
                self._add(name, place)
            self.registry.activate(options.active)
        except RequestError as error:
            raise PackageError(str(error)) from error

    @property
    def active(self) -> tuple[str, ...]:
        """Names of what requests get that do not say."""
        return self.registry.active

    def loaded(self) -> list[Adapter]:
        """In the order of loading."""
        return self.registry.loaded()

    def __contains__(self, name: str) -> bool:
        return name in self.registry

    def fits(self, manifest: Manifest) -> bool:
        """Whether another package of the model, as of another type of weights, takes these adapters."""
        shapes = {name: record.shape for name, record in manifest.tensors.items()}
        return (self._groups, self._shapes) == (manifest.lora, shapes)

    def load(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        """Loads a folder inside the root, by its path there or its whole path. `replace`: another of this name.

        Raises RequestError, and then nothing has changed.
        """
        if self._root is None:
            message = "This server loads no adapters while it runs: start it with --adapter-root to allow it."
            raise RequestError(message, status=403, code="loading_disabled", param="lora_path")
        self._check_name(name)
        folder = _inside(self._root, path)
        if name in self.registry and not replace:  # before the work
            message = f"an adapter {name!r} is loaded already: unload it first, or load it in place (load_inplace)"
            raise RequestError(message, code="adapter_exists", param="lora_name")
        try:
            adapter = self._read(name, in_folder(folder, name), self._root)
        except CompileError as error:
            told = str(error).replace(f"{self._root}/", "").replace(str(self._root), "the folder of adapters")
            raise RequestError(f"adapter {name!r}: {told}", code="invalid_adapter", param="lora_path") from error
        self.registry.add(adapter, replace=replace)
        return adapter

    def unload(self, name: str) -> Adapter:
        """Requests in flight keep it. Raises RequestError 404."""
        return self.registry.remove(name)

    def activate(self, names: Sequence[str]) -> None:
        """What requests get that do not say. Raises RequestError 404, and then nothing has changed."""
        self.registry.activate(names)

    def select(self, parts: Sequence[Part] | None) -> Adapter | None:
        """Raises RequestError 404 for an unknown name."""
        return self.registry.select(parts)

    def _add(self, name: str, place: Place) -> None:
        self._check_name(name)
        try:
            if isinstance(place, Packaged):
                file, parent, generation = (
                    place.folder / place.record.file,
                    place.record.parent,
                    place.record.generation,
                )
                adapter = pack_adapter(name, generation, read_packaged(file), self._groups, parent)
            else:
                adapter = self._read(name, in_folder(place, name) if isinstance(place, Path) else place)
            self.registry.add(adapter)
        except CompileError as error:
            raise PackageError(f"adapter {name!r}: {error}") from error

    def _check_name(self, name: str) -> None:
        if not re.fullmatch(ADAPTER_NAME, name):
            message = f"an adapter's name is 1 to 128 letters, digits and . _ -, with no mark first, got {name!r:.140}"
            raise RequestError(message, param="lora_name")
        if name in (self._model, DEFAULT):
            message = f"an adapter cannot be called {name!r}, for requests call the model so: choose another name"
            raise RequestError(message, param="lora_name")

    def _read(self, name: str, files: AdapterFiles, root: Path | None = None) -> Adapter:
        caps = self.registry.caps
        limits = AdapterLimits(rank=caps.rank, num_bytes=caps.num_bytes)
        read = read_files(files, self._arch, self._shapes, limits, root=root)
        return pack_adapter(name, read.generation, read.updates, self._groups, read.base_model)


def _inside(root: Path, path: str) -> Path:
    """Raises RequestError for what lies elsewhere, links followed, and for what is no folder."""
    try:
        folder = (root / path).resolve()
        is_inside, is_folder = folder.is_relative_to(root), folder.is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, links in a circle, zero bytes
        is_inside, is_folder = True, False
    if not is_inside:
        message = f"lora_path {path!r:.128} is outside of the folder that adapters are loaded from"
        raise RequestError(message, status=403, code="path_not_allowed", param="lora_path")
    if not is_folder:
        message = f"lora_path {path!r:.128} names no folder among those that adapters are loaded from"
        raise RequestError(message, status=404, code="adapter_path_not_found", param="lora_path")
    return folder
