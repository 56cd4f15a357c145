"""Which safetensors files make up a checkpoint: a file, an index or a folder; what is in them is not known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mistralrs_onnx.compiler.errors import CompileError

from .cursor import FieldError
from .source import Source, about
from .strict_json import MAX_JSON, parse_object

MAX_SHARDS = 1000
INDEX = ".safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Shards:
    """Files in order, and the name of the file that an index promises each tensor in."""

    files: tuple[Path, ...]
    promised: Mapping[str, str] = field(default_factory=dict)


def find_shards(path: Path) -> Shards:
    """Raises CompileError unless the files are clear, there, and inside the folder."""
    if path.is_dir():
        return _in_folder(path)
    if path.suffix in PICKLES:
        raise _pickled(path)
    if not path.is_file():
        raise CompileError(f"{path}: no such file or folder")
    if path.name.endswith(INDEX):
        return _indexed(path)
    if path.suffix != ".safetensors":
        raise CompileError(
            f"{path}: not a safetensors file, index or folder: its name must end in .safetensors or {INDEX}"
        )
    return Shards((path,))


def _in_folder(folder: Path) -> Shards:
    """An index goes first, then the usual name, then the only file: quantizers choose names of their own."""
    indexes, files = (sorted(folder.glob(f"*{suffix}")) for suffix in (INDEX, ".safetensors"))
    if indexes:
        return _indexed(_preferred(indexes, folder / f"model{INDEX}"))
    if files:
        return Shards((_contained(folder, _preferred(files, folder / "model.safetensors").name),))
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES:
            raise _pickled(file)
    raise CompileError(f"{folder}: no *.safetensors file in this folder")


def _preferred(found: list[Path], usual: Path) -> Path:
    if usual in found:
        return usual
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:8])
        raise CompileError(f"{usual.parent}: no {usual.name}, and several others ({names}): give the path of one")
    return found[0]


def _pickled(file: Path) -> CompileError:
    return CompileError(
        f"{file}: PyTorch files hold code that runs when they are read: "
        "convert the checkpoint to safetensors first (transformers: save_pretrained)"
    )


def _indexed(index: Path) -> Shards:
    with about(index), Source(index) as source:
        text = source.read(0, min(source.size, MAX_JSON + 1), "index").tobytes()
        promised = parse_object(text, "index").get("weight_map")
        if not isinstance(promised, dict) or not promised:
            raise FieldError("weight_map", "an object of tensor names and file names", repr(promised)[:80])
        names = {_plain(name) for name in promised.values()}
        if len(names) > MAX_SHARDS:
            raise FieldError("weight_map", f"names of at most {MAX_SHARDS} files", len(names))
    return Shards(tuple(_contained(index.parent, name) for name in sorted(names)), promised)


def _plain(name: object) -> str:
    """A name that cannot lead elsewhere, on any system."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or len(name) > 255 or set(name) & set("/\\:\0"):
        raise FieldError("file in weight_map", "a plain name that ends in .safetensors", repr(name)[:80])
    return name


def _contained(folder: Path, name: str) -> Path:
    """A file of the folder, which may be a link inside it or, in a cache of the hub, into its blobs."""
    file = folder / name
    if not file.is_file():
        raise CompileError(f"{folder}: the file {name!r} is missing: download it")
    target, root = file.resolve(), folder.resolve()
    inside = target.is_relative_to(root)
    if not inside and not (root.parent.name == "snapshots" and target.is_relative_to(root.parent.parent / "blobs")):
        raise CompileError(f"{file}: a link to {target}, outside its folder: copy the file there")
    return file
