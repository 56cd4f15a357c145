"""Models that are split into several GGUF files: their names, and whether the parts belong together."""

from __future__ import annotations

import re
from pathlib import Path

from .cursor import FieldError
from .metadata import Metadata

MAX_PARTS = 999
NAME = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


def part_paths(path: Path, metadata: Metadata) -> list[Path]:
    """All files of a model, given the first with its metadata; that one alone if it is not split."""
    count = metadata.integer("split.count", 1)
    if count in {0, 1}:
        return [path]
    if not 1 < count <= MAX_PARTS:
        raise FieldError("split.count", f"0 to {MAX_PARTS}", count)
    match = NAME.fullmatch(path.name)
    stem = match["stem"] if match else "NAME"
    names = [f"{stem}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
    number = metadata.integer("split.no")
    if number != 0:
        raise FieldError("file", f"part 1 of {count}: give {names[0]}", f"part {number + 1}")
    if path.name != names[0]:
        raise FieldError("name of part 1", f"{names[0]}, so that the others can be found", path.name)
    return [path.with_name(name) for name in names]


def check_part(metadata: Metadata, number: int, count: int) -> None:
    """Raises FieldError unless the metadata is that of part `number`, counted from 0."""
    got = metadata.integer("split.no"), metadata.integer("split.count")
    if got != (number, count):
        raise FieldError("file", f"part {number + 1} of {count}", f"part {got[0] + 1} of {got[1]}: download it again")


def check_total(metadata: Metadata, num_tensors: int) -> None:
    promised = metadata.integer("split.tensors.count")
    if num_tensors != promised:
        raise FieldError("number of tensors in all parts", f"{promised} (split.tensors.count)", num_tensors)
