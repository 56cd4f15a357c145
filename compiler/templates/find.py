"""Finds a chat template by its name or in a file."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.tokenizer.json_files import read_object, read_text

MAX_TEMPLATE = 1 << 20  # characters; the longest that we know of has 20 thousand
NAMES = ("chatml", "default", "llama2", "llama3", "mistral", "phi3")


def find_template(name_or_path: str) -> str:
    """The template of one of NAMES, of a .jinja file, or of a .json file with the key chat_template.

    Raises CompileError.
    """
    if name_or_path in NAMES:
        return files(__package__).joinpath(f"{name_or_path}.jinja").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix == ".jinja":
        return read_text(path, MAX_TEMPLATE)
    if path.suffix == ".json":
        return template_of(read_object(path), path)
    nearest = get_close_matches(name_or_path, NAMES, n=1)
    hint = f"; the nearest is {nearest[0]}" if nearest else ""
    raise CompileError(
        f"chat template {name_or_path!r} is not known, only {', '.join(NAMES)} and files that end in "
        f".jinja or .json{hint}"
    )


def template_of(values: dict[str, Any], path: Path) -> str:
    """`chat_template` of a JSON file: a text, or a list of named ones of which `default` counts."""
    template = values.get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    if not isinstance(template, str):
        raise CompileError(f"chat_template in {path} must be a text, or a list with one named default")
    if len(template) > MAX_TEMPLATE:
        raise CompileError(f"chat_template in {path} must have at most {MAX_TEMPLATE} characters, got {len(template)}")
    return template
