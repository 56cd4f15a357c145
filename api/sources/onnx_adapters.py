"""Writes adapters in ONNX Runtime's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mistralrs_onnx.ops.formats import Float32
from mistralrs_onnx.runtime.sessions import runtime_library

VERSION = 1  # of adapters and of the model that they are for: the format wants numbers, and hosts ignore them


def export_adapter(path: Path, parameters: Mapping[str, Float32]) -> None:
    """A file for `RunOptions.add_active_adapter`. Raises PackageError without onnxruntime."""
    library = runtime_library()
    adapter = library.AdapterFormat()
    adapter.set_adapter_version(VERSION)
    adapter.set_model_version(VERSION)
    adapter.set_parameters({name: library.OrtValue.ortvalue_from_numpy(value) for name, value in parameters.items()})
    adapter.export_adapter(str(path))
