"""Finds out what a path is, and inspects it."""

from __future__ import annotations

from pathlib import Path

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import MANIFEST

from .inspected_checkpoint import inspect_ggml, inspect_gguf, inspect_safetensors
from .inspected_graph import inspect_graph
from .inspected_package import inspect_package
from .inspection import Inspection
from .package_files import Hashing, silent

GGUF_MAGIC, GGML_MAGICS = b"GGUF", (b"lmgg", b"fmgg", b"tjgg")  # the latter little-endian


def inspect_path(path: Path, *, verify: bool = False, hashing: Hashing = silent) -> Inspection:
    """`hashing` is told each file whose sha256 is computed. Raises CompileError, PackageError."""
    try:
        return _inspect(path, verify=verify, hashing=hashing)
    except OSError as error:
        raise CompileError(f"{error.filename or path} cannot be read: {error.strerror}") from error


def _inspect(path: Path, *, verify: bool, hashing: Hashing) -> Inspection:
    if path.is_dir():
        return _inspect_folder(path, verify=verify, hashing=hashing)
    if path.name == MANIFEST:
        return inspect_package(path.parent, verify=verify, hashing=hashing)
    if path.suffix == ".onnx":
        return inspect_graph(path, verify=verify, hashing=hashing)
    if path.name.endswith((".safetensors", ".safetensors.index.json")):
        return inspect_safetensors(path, verify=verify, hashing=hashing)
    magic = _magic(path)
    if magic == GGUF_MAGIC or path.suffix == ".gguf":
        return inspect_gguf(path, verify=verify, hashing=hashing)
    if magic in GGML_MAGICS:
        return inspect_ggml(path, verify=verify, hashing=hashing)
    if (path.parent / MANIFEST).is_file():
        raise CompileError(f"{path} is a file of a package: inspect the folder, {path.parent}")
    raise CompileError(f"{path} is none of these: a package, an ONNX graph, a GGUF, GGML or safetensors checkpoint")


def _inspect_folder(folder: Path, *, verify: bool, hashing: Hashing) -> Inspection:
    if (folder / MANIFEST).is_file():
        return inspect_package(folder, verify=verify, hashing=hashing)
    names = sorted(path.name for path in folder.iterdir())
    if "config.json" not in names and not any(name.endswith(".safetensors") for name in names):
        raise CompileError(
            f"{folder} is no package, for it has no {MANIFEST}, and no checkpoint{_instead(folder, names)}"
        )
    return inspect_safetensors(folder, verify=verify, hashing=hashing)


def _instead(folder: Path, names: list[str]) -> str:
    files = [name for name in names if name.endswith((".gguf", ".onnx"))]
    return f": name the file in it that you mean, such as {folder / files[0]}" if files else ""


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)
