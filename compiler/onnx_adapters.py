"""Adapters in ONNX Runtime's own format, which hosts apply to the portable graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mistralrs_onnx.graphs.contract import ADAPTERS, LoraGroup, Updates
from mistralrs_onnx.ops.formats import Float32

from .adapters.files import AdapterFiles
from .adapters.peft import Adapter, read_files
from .archs.arch import Arch
from .errors import CompileError
from .naming import Shape
from .packaged_adapters import check_file_name

Export = Callable[[Path, Mapping[str, Float32]], None]  # writes a file of parameters by name


@dataclass(frozen=True, slots=True)
class ToEmit:
    """Adapters that become files beside the portable graph, and how such a file is written."""

    adapters: tuple[AdapterFiles, ...]
    export: Export

    def read(self, arch: Arch, shapes: Mapping[str, Shape]) -> tuple[Adapter, ...]:
        """Raises CompileError as `read_files` does, and for names that cannot be files."""
        for files in self.adapters:
            check_file_name(files.name)
        return tuple(read_files(files, arch, shapes) for files in self.adapters)

    def write(self, folder: Path, adapters: Sequence[Adapter], groups: Sequence[LoraGroup]) -> None:
        """`NAME.onnx_adapter` of each. `groups`: of linears that graphs can adapt.

        Raises CompileError for a linear that is in none.
        """
        known = {linear for group in groups for linear in group.linears}
        (folder / ADAPTERS).mkdir(exist_ok=True)
        for adapter in adapters:
            for linear in sorted(adapter.updates.keys() - known):
                raise CompileError(f"adapter {adapter.name} changes {linear}, which can only be merged")
            self.export(folder / ADAPTERS / f"{adapter.name}.onnx_adapter", parameters(adapter.updates))


def parameters(updates: Updates) -> dict[str, Float32]:
    """By name of the graph's inputs: a (K, rank) and b (rank, N) of each linear."""
    found: dict[str, Float32] = {}
    for linear, (a, b) in updates.items():
        found[f"{linear}.lora_A"], found[f"{linear}.lora_B"] = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    return found
