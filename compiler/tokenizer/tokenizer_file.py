"""Reads a tokenizer.json that others wrote, and makes it say all that its folder says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import TOKENIZER_CONFIG

from .files import SPECIAL_TOKENS_MAP, to_json
from .json_files import parse_object, read_file, read_optional
from .layout import Json
from .token_texts import token_texts

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class TokenizerFile(NamedTuple):
    """A tokenizer.json: the file itself, and what it says."""

    content: bytes
    values: Json


def read_tokenizer(path: Path, config: Json) -> TokenizerFile:
    """`config`: tokenizer_config.json, whose added tokens join. Raises CompileError for what is no tokenizer."""
    content = read_file(path)
    values = parse_object(content, path)
    if changes := _changes(values, config, path):
        values = values | changes
        content = to_json(values)
    try:
        Tokenizer.from_buffer(content)
    except Exception as error:  # the library has no class of its own for it
        raise CompileError(f"{path} is no tokenizer that `tokenizers` can load: {error}") from error
    return TokenizerFile(content, values)


def _changes(tokenizer: Json, config: Json, path: Path) -> Json:
    """Added tokens that only tokenizer_config.json has; and prompts must be neither cut nor filled up."""
    changes: Json = {key: None for key in ("truncation", "padding") if tokenizer.get(key) is not None}
    texts = token_texts(tokenizer, path)
    missing = []
    for token in config_tokens(config):
        known = texts.get(token["id"])
        if known is None:
            missing.append(token)
        elif known != token["content"]:
            place = "added_tokens_decoder of tokenizer_config.json"
            raise CompileError(f"token {token['id']} is {known!r} in {path}, but {token['content']!r} in {place}")
    return changes | ({"added_tokens": [*(tokenizer.get("added_tokens") or []), *missing]} if missing else {})


def read_tokenizer_config(folder: Path) -> Json:
    """tokenizer_config.json; where it lists no added tokens, with those of added_tokens.json, as older folders have."""
    config = read_optional(folder / TOKENIZER_CONFIG)
    if "added_tokens_decoder" in config:
        return config
    added = read_optional(folder / "added_tokens.json")
    if not all(isinstance(i, int) for i in added.values()):
        raise CompileError(f"{folder / 'added_tokens.json'} must give ids to texts")
    special = _special_texts([config, read_optional(folder / SPECIAL_TOKENS_MAP)])
    tokens = {str(i): {"content": text, "special": text in special} for text, i in added.items()}
    return config | {"added_tokens_decoder": tokens}


def _special_texts(sources: Iterable[Json]) -> set[str | None]:
    """Texts under keys like eos_token and additional_special_tokens."""
    values = [value for source in sources for key, value in source.items() if key.endswith(("_token", "_tokens"))]
    return {text_of(token) for value in values for token in (value if isinstance(value, list) else [value])}


def text_of(token: Any) -> str | None:
    """Files write a token as its text, or as an object with it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def config_tokens(config: Json) -> list[Json]:
    """The added tokens of tokenizer_config.json in the form of tokenizer.json, by id. Raises CompileError."""
    tokens = config.get("added_tokens_decoder") or {}
    if not isinstance(tokens, dict):
        raise CompileError("added_tokens_decoder in tokenizer_config.json must be an object")
    found = []
    for key, token in tokens.items():
        if not key.isdecimal() or len(key) > 9 or not isinstance(token, dict) or text_of(token) is None:
            place = f"added_tokens_decoder[{key[:40]!r}] in tokenizer_config.json"
            raise CompileError(f"{place} must be an id and an object with content")
        found.append({"id": int(key), "content": token["content"], **{flag: bool(token.get(flag)) for flag in FLAGS}})
    return sorted(found, key=lambda token: token["id"])
