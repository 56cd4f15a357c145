"""Conversations in files: what is written is JSON that nobody else may read, what is read is checked."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mistralrs_onnx.runtime.errors import RequestError

FORMAT = "mistralrs-onnx chat 1"
LARGEST = 16 << 20

Turn = dict[str, str]


@dataclass(frozen=True, slots=True)
class Saved:
    """`messages` as OpenAI has them; `settings`: fields of SamplingParams; `adapters` as they were chosen."""

    model: str
    messages: Sequence[Turn]
    settings: Mapping[str, Any]
    adapters: Sequence[str] = ()
    format: str = field(default=FORMAT)

    @property
    def system(self) -> str:
        return self.messages[0]["content"] if self._has_system else ""

    @property
    def turns(self) -> Sequence[Turn]:
        return self.messages[1:] if self._has_system else self.messages

    @property
    def _has_system(self) -> bool:
        return bool(self.messages) and self.messages[0]["role"] == "system"


def save(path: Path, saved: Saved, *, overwrite: bool) -> None:
    """The file is there whole or not at all. Raises RequestError."""
    if path.exists() and not overwrite:
        raise RequestError(f"{path} exists already: /save! {path} writes over it")
    text = json.dumps({each.name: getattr(saved, each.name) for each in fields(saved)}, ensure_ascii=False, indent=1)
    try:
        _write(path, text + "\n")
    except (OSError, UnicodeEncodeError) as error:
        raise RequestError(f"{path} cannot be written: {_reason(error)}") from error


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def load(path: Path) -> Saved:
    """Raises RequestError for what `save` did not write."""
    try:
        if path.stat().st_size > LARGEST:
            raise RequestError(f"{path} has more than {LARGEST >> 20} MiB: that is no conversation")
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no conversation that /save wrote: {error}") from error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _checked(values: Any) -> Saved:
    """Raises ValueError."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    match values:
        case {"model": str(model), "messages": list(messages), "settings": dict(settings), "adapters": list(adapters)}:
            if not all(isinstance(name, str) for name in adapters):
                raise ValueError("adapters must be names")
            return Saved(model, _checked_messages(messages), settings, adapters)
    raise ValueError("it needs model, messages, settings and adapters")


def _checked_messages(messages: list[Any]) -> list[Turn]:
    """The system's first, if there is one; then user and assistant in turn, up to an answer."""
    checked = [_checked_message(message, number) for number, message in enumerate(messages, 1)]
    roles = [message["role"] for message in checked]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError("after the system's message, user and assistant must take turns, and the assistant be last")
    return checked


def _checked_message(message: Any, number: int) -> Turn:
    match message:
        case {"role": "system" | "user" | "assistant" as role, "content": str(content)}:
            return {"role": role, "content": content}
    raise ValueError(f"message {number} needs a role (system, user or assistant) and a text as content")
