"""Where the adapters are that a model is made with: a PEFT folder, or some of a repository, put in order by a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from mistralrs_onnx.compiler.adapters.files import CONFIG, AdapterFiles, find_adapters, in_folder
from mistralrs_onnx.compiler.adapters.ordering import Ordering, Preload, ordered_adapters, read_ordering
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.sources.wanted import ADAPTER, Wanted, wanted_adapters

Fetch = Callable[[str, Wanted], Path]  # a path or the name of a repository to a folder; raises CompileError


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """`model`: a folder, or a repository of the hub. `order`: the ordering file that says which of its adapters;
    without one it is a single adapter, as PEFT saves it.
    """

    model: str
    order: Path | None = None

    def read_order(self) -> Ordering | None:
        """Raises CompileError."""
        return None if self.order is None else read_ordering(self.order)


@dataclass(frozen=True, slots=True)
class LocatedAdapters:
    """`merged`: into the weights, in this order. `loaded`: beside them, by name, of which `active` are what requests
    get that do not say.
    """

    merged: tuple[AdapterFiles, ...] = ()
    loaded: Mapping[str, AdapterFiles] = field(default_factory=dict)
    active: tuple[str, ...] = ()


def locate_adapters(source: AdapterSource, ordering: Ordering | None, fetch: Fetch) -> LocatedAdapters:
    """Adapters of `order` are merged, unless there are ones to preload: then all are loaded. Raises CompileError."""
    if ordering is None:
        folder = fetch(source.model, ADAPTER)
        name = None if Path(source.model).expanduser().exists() else PurePath(source.model).name  # not the snapshot's
        return LocatedAdapters(merged=(in_folder(folder, name),))
    order = ordering.order or ()
    if not ordering.preload_adapters:
        if not order:
            raise CompileError(f"{source.order} names no adapters: give it an order, or leave it out for a PEFT folder")
        return LocatedAdapters(merged=ordered_adapters(fetch(source.model, wanted_adapters(order)), ordering))
    preloaded = {each.name: _preloaded(each, fetch) for each in ordering.preload_adapters}
    others = [name for name in order if name not in preloaded]
    found = find_adapters(fetch(source.model, wanted_adapters(others)), others) if others else ()
    return LocatedAdapters(loaded={each.name: each for each in found} | preloaded, active=order)


def _preloaded(preload: Preload, fetch: Fetch) -> AdapterFiles:
    """From a repository of several, or one that is itself the adapter."""
    root = fetch(preload.adapter_model_id, wanted_adapters([preload.name]))
    if (root / CONFIG).is_file() and not (root / preload.name).is_dir():
        return in_folder(root, preload.name)
    return find_adapters(root, [preload.name])[0]
