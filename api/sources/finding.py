"""From what a user calls a model to its source: a checkpoint of this machine or of the hub, or the demo."""

from __future__ import annotations

from pathlib import Path

from mistralrs_onnx.caching.cache import demo_source
from mistralrs_onnx.compiler.checkpoints.ggml_file import GGJT, GGMF, GGML
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import MANIFEST

from .source import Kind, ModelSource

DEMO = "demo"
GGML_MAGICS = tuple(magic.to_bytes(4, "little") for magic in (GGML, GGMF, GGJT))


def is_package(model: str | Path) -> bool:
    return (Path(model).expanduser() / MANIFEST).is_file()


def find_source(model: str | Path, filename: str | None = None) -> ModelSource:
    """Of a file, of a folder or the name of a repository, or of "demo"; what lies on this machine comes first.

    `filename`: of a GGUF or GGML file, where `model` is not itself one. Raises CompileError.
    """
    if not str(model):
        raise CompileError("the model's name is empty: name a file, a folder, a repository of the hub, or demo")
    path = Path(model).expanduser()
    if path.is_file():
        if filename is not None:
            raise CompileError(f"{model} is a file: leave filename {filename!r} out, or name the folder of both")
        return ModelSource(_kind(path), str(path.parent), path.name)
    if path.is_dir() or str(model) != DEMO:
        kind: Kind = "plain" if filename is None else _kind(path / filename)
        return ModelSource(kind, str(path) if path.is_dir() else str(model), filename)
    if filename is not None:
        raise CompileError(f"the demo model is one file: leave filename {filename!r} out")
    return demo_source()


def _kind(path: Path) -> Kind:
    """By how the file begins or, where it is not here yet, by its name."""
    if path.suffix == ".safetensors":
        raise CompileError(f"{path.name} is a part of a checkpoint: name its folder {path.parent} alone")
    if not path.is_file():
        return "gguf" if path.suffix.lower() == ".gguf" else "ggml"
    with path.open("rb") as file:
        return "ggml" if file.read(4) in GGML_MAGICS else "gguf"
