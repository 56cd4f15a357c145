"""Whether what lies at a path is of the kind that somebody called it; what to call it where it is not."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import MANIFEST

CONFIG = "config.json"
FEW = 4  # files that an error lists


def checkpoint_folder(path: Path) -> Path:
    """Of safetensors. Raises CompileError."""
    if path.is_file():
        raise CompileError(f"{path} is a file, and plain takes a folder of safetensors{_as_file(path)}")
    if not (path / CONFIG).is_file():
        raise CompileError(f"{path} has no {CONFIG}, so it is no folder of safetensors{_instead(path)}")
    return path


def checkpoint_file(folder: Path, filename: str) -> Path:
    """A GGUF or GGML file. Raises CompileError."""
    path = folder / filename
    if folder.is_file():
        raise CompileError(f"{folder} is a file, and its folder is wanted: say -m {folder.parent} -f {folder.name}")
    if path.is_dir():
        raise CompileError(f"{path} is a folder, and -f names a file in {folder}{_there(folder)}")
    if not path.is_file():
        near = get_close_matches(filename, [each.name for each in folder.iterdir()], 1)
        raise CompileError(f"{path}: no such file" + (f"; did you mean {near[0]}?" if near else _there(folder)))
    return path


def _as_file(path: Path) -> str:
    return f": say gguf -m {path.parent} -f {path.name}" if path.suffix == ".gguf" else ""


def _instead(folder: Path) -> str:
    if (folder / MANIFEST).is_file():
        return f": it is a package, say compiled -m {folder}"
    files = _ggufs(folder)
    return f", but it has {_some(files)}: say gguf -m {folder} -f {files[0]}" if files else ": name another folder"


def _there(folder: Path) -> str:
    files = _ggufs(folder)
    return f"; there is {_some(files)}" if files else f"; {folder} has no .gguf file"


def _ggufs(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.glob("*.gguf"))


def _some(files: list[str]) -> str:
    return ", ".join(files[:FEW]) + (f" and {len(files) - FEW} more" if len(files) > FEW else "")
