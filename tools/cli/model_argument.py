"""A model as one argument of a command: a package, a checkpoint, a repository of the hub, or the demo."""

from __future__ import annotations

from pathlib import Path

from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import MANIFEST
from mistralrs_onnx.sources.finding import find_source, is_package
from mistralrs_onnx.which import Chosen

from .adapter_options import Found
from .options import CompiledNow, Locate


def find_model(text: str) -> Locate:
    """A checkpoint is compiled into the cache when the result is called. Raises CompileError."""
    path = Path(text).expanduser()
    if is_package(path):
        found = Found(path)
        return lambda: found
    is_gguf_folder = path.is_dir() and not (path / "config.json").is_file()
    source = find_source(_only_gguf(path) if is_gguf_folder else text)
    return CompiledNow(Chosen(source, CompileOptions()))


def _only_gguf(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        raise CompileError(f"{folder} has {len(files)} GGUF files: name one of them, like {files[0]}")
    raise CompileError(
        f"{folder} has neither a package ({MANIFEST}) nor a checkpoint (config.json, a .gguf file): name another folder"
    )
