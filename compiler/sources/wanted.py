"""Which files of a repository a compile needs, decided from their names and the index of shards alone."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from mistralrs_onnx.compiler.errors import CompileError

INDEX = "model.safetensors.index.json"
WEIGHTS = "*.safetensors"
LONGEST_INDEX = 64 << 20
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*.j*",
)
SPLIT = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")

Read = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Files of a repository: `files` must be there, of the top folder also whatever matches `optional`.

    `weights`: safetensors too; those that the index names where there is one, else all but `consolidated` copies.
    `adapters`: names of which JSON files and safetensors are taken from any folder, where they are in the path.
    """

    what: str
    files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    weights: bool = False
    adapters: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = [f"*{name}*" for name in self.adapters]
        return ", ".join([*self.files, *([WEIGHTS] if self.weights else []), *self.optional, *named])


CHECKPOINT = Wanted(
    "a checkpoint", ("config.json",), ("generation_config.json", "quantize_config.json", *TOKENIZER_FILES), weights=True
)
TOKENIZER = Wanted("a tokenizer", (), ("config.json", "generation_config.json", *TOKENIZER_FILES))
ADAPTER = Wanted("an adapter", ("adapter_config.json", "adapter_model.safetensors"))


def wanted_adapters(names: Iterable[str]) -> Wanted:
    """Adapters of a repository that has several, by name, or the one that it is itself."""
    return Wanted("adapters", optional=ADAPTER.files, adapters=tuple(names))


def wanted_gguf(*names: str) -> Wanted:
    """GGUF files by their paths in the repository, each with the other parts of its split."""
    return Wanted("a GGUF checkpoint", tuple(dict.fromkeys(part for name in names for part in split_parts(name))))


def split_parts(name: str) -> list[str]:
    """All parts of a split file, for any of them: `x-00001-of-00003.gguf`; a whole file is its only part."""
    match = SPLIT.fullmatch(name)
    if match is None:
        return [name]
    count = int(match["count"])
    if not 1 <= count <= 1000:
        raise CompileError(f"{name} claims to be one of {count} parts: 1 to 1000 are supported")
    return [f"{match['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)]


def check_inside(name: str) -> str:
    """The name. Raises CompileError where it would lead out of the folder that it is put into."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", name):
        raise CompileError(f"file name {name!r} leads out of the repository: it is not fetched")
    return name


def select(names: Iterable[str], wanted: Wanted, repository: str, read: Read) -> list[str]:
    """The names that are wanted, in order. `read` gives the content of one. Raises CompileError for missing ones."""
    there = sorted(names)
    chosen = [check_inside(name) for name in wanted.files]
    for name in chosen:
        if name not in there:
            raise CompileError(_missing(name, there, repository))
    top = [name for name in there if "/" not in name and "\\" not in name]
    chosen += [name for name in top if any(fnmatchcase(name, pattern) for pattern in wanted.optional)]
    chosen += [name for name in there if name.endswith((".json", ".safetensors")) and _is_of(name, wanted.adapters)]
    if wanted.weights:
        chosen += _weights(top, there, repository, read)
    if not chosen:
        raise CompileError(f"{repository} holds nothing of {wanted.what} ({wanted}): it has {_some(there)}")
    return list(dict.fromkeys(map(check_inside, chosen)))


def _is_of(name: str, adapters: Iterable[str]) -> bool:
    return any(re.search(rf"(?<![A-Za-z0-9]){re.escape(each)}(?![A-Za-z0-9])", name) for each in adapters)


def _weights(top: Sequence[str], there: Sequence[str], repository: str, read: Read) -> list[str]:
    if INDEX in top:
        shards = shard_names(read(INDEX))
        for name in shards:
            if name not in there:
                raise CompileError(f"{INDEX} names {name}, which {repository} does not have: it is incomplete")
        return [INDEX, *shards]
    found = [n for n in top if fnmatchcase(n, WEIGHTS) and not n.startswith(("consolidated", "adapter_model"))]
    if not found:
        raise CompileError(_no_weights(there, repository))
    return ["model.safetensors"] if "model.safetensors" in found else found


def shard_names(index: bytes) -> list[str]:
    """Names of the files in an index of shards, sorted. Raises CompileError."""
    if len(index) > LONGEST_INDEX:
        raise CompileError(f"{INDEX} has {len(index)} bytes, at most {LONGEST_INDEX} are read")
    try:
        shards = set(json.loads(index)["weight_map"].values())
        return sorted(check_inside(name) for name in shards)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CompileError(f"{INDEX} is damaged: it needs a weight_map from tensor names to file names") from error


def _missing(name: str, there: Sequence[str], repository: str) -> str:
    suffix = PurePosixPath(name).suffix
    alike = [other for other in there if suffix and other.endswith(suffix)]
    near = difflib.get_close_matches(name, alike, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{repository} has no file {name}.{hint} It has {_some(alike or list(there))}"


def _no_weights(there: Sequence[str], repository: str) -> str:
    if any(name.endswith(".gguf") for name in there):
        gguf = [name for name in there if name.endswith(".gguf")]
        return f"{repository} holds GGUF files, no safetensors: name one of {_some(gguf)}"
    if any(name.endswith((".bin", ".pt", ".pth")) for name in there):
        return f"{repository} has its weights only as pickles, which run code: use a revision with *.safetensors"
    return f"{repository} has no *.safetensors: it has {_some(there)}"


def _some(names: Sequence[str], most: int = 20) -> str:
    if not names:
        return "no files"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
