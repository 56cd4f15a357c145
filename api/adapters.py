"""Adapters of a loaded model: read from folders, checked against it, and loaded and unloaded while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mistralrs_onnx.compiler.adapters.peft import AdapterLimits, read_adapter
from mistralrs_onnx.compiler.archs import find_arch
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import Manifest
from mistralrs_onnx.runtime.adapter_registry import AdapterCaps, AdapterRegistry, Part
from mistralrs_onnx.runtime.adapters import Adapter, pack_adapter
from mistralrs_onnx.runtime.errors import PackageError, RequestError


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """`modules`: folders of adapters to load at the start, by name. `active`: which of them requests get that do not
    say. `root`: the folder that others may be loaded from later; None: none may.
    """

    modules: Mapping[str, Path] = field(default_factory=dict)
    active: tuple[str, ...] = ()
    root: Path | None = None
    caps: AdapterCaps = AdapterCaps()


class Adapters:
    """Any thread may call; what takes long, reading and packing, holds no lock."""

    def __init__(self, manifest: Manifest, options: AdapterOptions) -> None:
        """Raises PackageError for a folder that cannot be loaded."""
        self.registry = AdapterRegistry(options.caps)
        self._manifest = manifest
        self._arch = find_arch(manifest.architecture)
        self._shapes = {name: record.shape for name, record in manifest.tensors.items()}
        self._root = None if options.root is None else options.root.resolve()
        try:
            for name, folder in options.modules.items():
                self.registry.add(self._read(name, folder, None))
            self.registry.activate(options.active)
        except RequestError as error:
            raise PackageError(str(error)) from error

    def load(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        """Loads a folder inside the root, by its path there or its whole path. `replace`: another of this name.

        Raises RequestError, and then nothing has changed.
        """
        if self._root is None:
            message = "This server loads no adapters while it runs: start it with --adapter-root to allow it."
            raise RequestError(message, status=403, code="loading_disabled", param="lora_path")
        folder = (self._root / path).resolve()
        if not folder.is_relative_to(self._root) or "\0" in path:
            message = f"lora_path {path!r:.128} is outside of the folder that adapters are loaded from"
            raise RequestError(message, status=403, code="path_not_allowed", param="lora_path")
        if name in self.registry and not replace:  # before the work
            message = f"an adapter {name!r:.128} is loaded already: unload it first, or load it in place"
            raise RequestError(message, code="adapter_exists", param="lora_name")
        adapter = self._read(name, folder, self._root)
        self.registry.add(adapter, replace=replace)
        return adapter

    def unload(self, name: str) -> Adapter:
        """Requests in flight keep it. Raises RequestError 404."""
        return self.registry.remove(name)

    def activate(self, names: Sequence[str]) -> None:
        """What requests get that do not say. Raises RequestError 404."""
        self.registry.activate(names)

    def select(self, parts: Sequence[Part] | None) -> Adapter | None:
        """Raises RequestError 404 for an unknown name."""
        return self.registry.select(parts)

    def _read(self, name: str, folder: Path, root: Path | None) -> Adapter:
        caps = self.registry.caps
        limits = AdapterLimits(rank=caps.rank, num_bytes=caps.num_bytes)
        try:
            read = read_adapter(folder, self._arch, self._shapes, limits, name=name, root=root)
        except CompileError as error:
            raise RequestError(f"adapter {name!r:.128}: {error}", code="invalid_adapter", param="lora_path") from error
        return pack_adapter(name, read.generation, read.updates, self._manifest.lora, read.base_model)
