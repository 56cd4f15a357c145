"""Adapters that a package carries: in the common form, in safetensors, `<linear>.lora_A` and `<linear>.lora_B` each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from mistralrs_onnx.graphs.contract import ADAPTER_NAME, ADAPTERS, AdapterRecord, Update, Updates
from mistralrs_onnx.ops.formats import Float32

from .adapters.files import AdapterFiles
from .adapters.peft import read_files
from .archs.arch import Arch
from .checkpoints.safetensors import Safetensors, read_safetensors
from .errors import CompileError
from .naming import Shape

A, B = ".lora_A", ".lora_B"


def write_adapters(
    folder: Path, adapters: Iterable[AdapterFiles], arch: Arch, shapes: Mapping[str, Shape]
) -> dict[str, AdapterRecord]:
    """Into a folder of the package. Raises CompileError as `read_files` does, and for names that cannot be files."""
    records = {}
    for files in adapters:
        check_file_name(files.name)
        adapter = read_files(files, arch, shapes)
        record = AdapterRecord(f"{ADAPTERS}/{files.name}.safetensors", adapter.base_model, adapter.generation)
        (folder / ADAPTERS).mkdir(exist_ok=True)
        _write(folder / record.file, adapter.updates)
        records[files.name] = record
    return records


def check_file_name(name: str) -> None:
    """Raises CompileError for an adapter's name that cannot be a file's."""
    if not re.fullmatch(ADAPTER_NAME, name):
        raise CompileError(
            f"an adapter in a package has a name of 1 to 128 letters, digits and . _ -, got {name[:140]!r}"
        )


def _write(path: Path, updates: Updates) -> None:
    """A safetensors file: length of the header, header, data."""
    tensors: dict[str, Float32] = {}
    for linear, (a, b) in sorted(updates.items()):
        tensors |= {linear + A: np.ascontiguousarray(a), linear + B: np.ascontiguousarray(b)}
    header, done = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [done, done + values.nbytes]}
        done += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            out.write(values.data)


def read_packaged(path: Path) -> Updates:
    """What `write_adapters` wrote; shapes are the reader's business. Raises CompileError."""
    with read_safetensors(path) as file:
        linears = [name.removesuffix(A) for name in file.tensors if name.endswith(A)]
        if len(file.tensors) != 2 * len(linears):
            raise CompileError(f"{path} must have a {A} and a {B} of each linear: it is damaged")
        return {linear: Update(_read(file, linear + A), _read(file, linear + B)) for linear in linears}


def _read(file: Safetensors, name: str) -> Float32:
    tensor = file[name]
    if tensor.dtype != "F32" or len(tensor.shape) != 2:
        raise CompileError(f"{file.path}: {name} must be a matrix in F32, is {tensor.dtype} {tensor.shape}")
    return file.read(tensor, 0, tensor.nbytes).view(np.float32).reshape(tensor.shape)
