"""Where the access token of the hub is read from. No text that is made here ever holds the token."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from mistralrs_onnx.compiler.errors import CompileError

from .library import hub_library

Kind = Literal["literal", "env", "path", "cache", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WITH_VALUE = ("literal", "env", "path")
GRAMMAR = "literal:VALUE, env:NAME, path:FILE, none or cache"
LONGEST = 4096


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Says where the token is; `read` looks there, late. `cache`: HF_TOKEN or what `hf auth login` keeps."""

    kind: Kind = "cache"
    value: str = field(default="", repr=False)

    def __str__(self) -> str:
        if self.kind == "literal":
            return "literal:..."
        return f"{self.kind}:{self.value}" if self.value else self.kind

    def read(self) -> str | None:
        """The token; None where there is none to send. Raises CompileError."""
        match self.kind:
            case "literal":
                return _checked(self.value, self)
            case "env":
                return _checked(_variable(self.value), self)
            case "path":
                return _checked(_content(Path(os.path.expanduser(self.value))), self)
            case "cache":
                found: str | None = hub_library().get_token()
                return None if found is None else _checked(found, self)
            case "none":
                return None


CACHED = TokenSource()


def parse_token_source(text: str) -> TokenSource:
    """`literal:VALUE`, `env:NAME`, `path:FILE`, `cache` or `none`. Raises CompileError."""
    name, colon, value = text.partition(":")
    kind = next((kind for kind in KINDS if kind == name), None)
    if kind is None:
        near = difflib.get_close_matches(name, KINDS, 1)
        hint = f" Did you mean {near[0]}?" if near else " A token itself is given as literal:VALUE."
        # What was got may be a token: it is not repeated.
        raise CompileError(f"the token source must be {GRAMMAR}.{hint}")
    if kind in WITH_VALUE and not value:
        raise CompileError(f"token source {kind}: lacks what follows the colon, write one of {GRAMMAR}")
    if kind not in WITH_VALUE and colon:
        raise CompileError(f"token source {kind} takes no value, write one of {GRAMMAR}")
    return TokenSource(kind, value)


def _variable(name: str) -> str:
    if name not in os.environ:
        raise CompileError(f"the token source is env:{name}, but no environment variable {name} is set")
    return os.environ[name]


def _content(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(LONGEST)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise CompileError(f"the token source is path:{path}, which cannot be read: {reason}") from error


def _checked(token: str, source: TokenSource) -> str:
    token = token.strip()
    if not token:
        raise CompileError(f"the token from {source} is empty: use --token-source none to send no token")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise CompileError(f"what {source} holds is not a token: tokens are one word of ASCII characters")
    return token
