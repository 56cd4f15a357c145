"""Where the compile cache is, and notes on its packages: what each was made of, and when it was used last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """`MISTRALRS_CACHE`, or ~/.cache/mistralrs-onnx."""
    return Path(os.environ.get("MISTRALRS_CACHE") or Path.home() / ".cache" / "mistralrs-onnx")


def packages_folder() -> Path:
    return cache_folder() / "packages"


def digests_folder() -> Path:
    """sha256 sums of checkpoints, so that they are not read again each time."""
    return cache_folder() / "digests"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a package was made of: a kind of checkpoint, where it was, and the options that were not the defaults."""

    kind: str
    path: str
    options: tuple[str, ...] = ()


def note_place(name: str) -> Path:
    return cache_folder() / "notes" / f"{name}.json"


def note_use(name: str, origin: Origin) -> None:
    """The time of the note is that of the last use. A cache that cannot be written serves without."""
    place = note_place(name)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(asdict(origin)) + "\n", encoding="utf-8")


def read_note(name: str) -> Origin | None:
    """None when there is none, or none that can be read."""
    try:
        raw: Mapping[str, Any] = json.loads(note_place(name).read_text(encoding="utf-8"))
        return Origin(str(raw["kind"]), str(raw["path"]), tuple(map(str, raw["options"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None
