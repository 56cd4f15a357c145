"""Where the two files of an adapter lie: in a folder as PEFT saves it, or under a root by the adapter's name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mistralrs_onnx.compiler.errors import CompileError

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MAX_FILES = 100_000  # in an adapter repository
MAX_NAME = 255


class AdapterFiles(NamedTuple):
    """An adapter's name, its config as JSON, its weights as safetensors."""

    name: str
    config: Path
    weights: Path


def in_folder(folder: Path, name: str | None = None) -> AdapterFiles:
    """`name`: else that of the folder. Raises CompileError, which says what is missing."""
    if not folder.is_dir():
        raise CompileError(f"{folder}: no such folder: an adapter is a folder with {CONFIG} and {WEIGHTS}")
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise _missing(folder, file)
    return AdapterFiles(name or folder.resolve().name, folder / CONFIG, folder / WEIGHTS)


def _missing(folder: Path, file: str) -> CompileError:
    if file == WEIGHTS and (folder / PICKLE).exists():
        return CompileError(
            f"{folder / PICKLE} is a pickle, which could run code: save it as {WEIGHTS} (PEFT's default)"
        )
    return CompileError(f"{folder} has no file {file}: an adapter is a folder with {CONFIG} and {WEIGHTS}")


def confine(path: Path, root: Path | None) -> None:
    """Raises CompileError for a path that lies outside of `root`, links followed; None is everywhere."""
    try:
        is_inside = root is None or path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise CompileError(f"{str(path)!r} cannot be found: {error}") from error
    if not is_inside:
        raise CompileError(f"{path} leads out of {root}: adapters are read from there only")


def check_name(name: str) -> None:
    """Raises CompileError for a name that could be a way to another place."""
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name in (".", "..") or re.search(r"[/\\:]", name):
        raise CompileError(
            f"an adapter's name must be 1 to {MAX_NAME} printable letters without slashes and colons, got {name[:80]!r}"
        )


def find_adapters(root: Path, names: Sequence[str]) -> tuple[AdapterFiles, ...]:
    """The files of adapters in a repository's folder, in the order of `names`.

    An adapter's own folder, `root/name`, comes first; then a safetensors and a JSON file below a folder of that name;
    then ones whose file names have it as a part: `adapter_1.json` is of adapter_1, `adapter_10.json` is not. Raises
    CompileError where none or several are found.
    """
    for name in names:
        check_name(name)
    if not root.is_dir():
        raise CompileError(f"{root}: no such folder")
    listed: list[Path] | None = None
    found = []
    for name in names:
        if (root / name / CONFIG).is_file():
            found.append(in_folder(root / name, name))
            continue
        listed = _listed(root) if listed is None else listed
        found.append(_find(root, name, listed))
    return tuple(found)


def _listed(root: Path) -> list[Path]:
    """Paths of all files, from `root` on. Links to folders are not followed."""
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        found += [(Path(folder) / file).relative_to(root) for file in sorted(files)]
        if len(found) > MAX_FILES:
            raise CompileError(f"{root} has more than {MAX_FILES} files: it is no adapter repository")
    return found


def _find(root: Path, name: str, listed: Iterable[Path]) -> AdapterFiles:
    part = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
    files = [path for path in listed if path.suffix in (".json", ".safetensors")]
    for candidates in (
        [path for path in files if name in path.parts[:-1]],
        [path for path in files if part.search(path.stem)],
    ):
        if candidates:
            return AdapterFiles(
                name, _only(root, name, candidates, ".json"), _only(root, name, candidates, ".safetensors")
            )
    raise CompileError(f"{root} has no adapter {name}: needed is a folder {name} with {CONFIG} and {WEIGHTS}")


def _only(root: Path, name: str, candidates: Iterable[Path], suffix: str) -> Path:
    """PEFT's names win where a folder has other files too."""
    found = [path for path in candidates if path.suffix == suffix]
    usual = [path for path in found if path.name in (CONFIG, WEIGHTS)]
    found = usual or found
    if len(found) == 1:
        return root / found[0]
    if not found:
        raise CompileError(f"{root} has no {suffix} file of adapter {name}")
    several = ", ".join(str(path) for path in found[:5])
    raise CompileError(f"{root} has several {suffix} files that may be adapter {name}'s: {several}: keep one of them")
