"""Which text has which id, according to a tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mistralrs_onnx.compiler.errors import CompileError

from .layout import Json


def token_texts(tokenizer: Json, path: Path) -> dict[int, str]:
    """Ids to texts, added tokens included. Raises CompileError where the file is not as `tokenizers` writes it."""
    texts: dict[int, str] = {}
    for text, token in [*_vocabulary(tokenizer, path), *_added(tokenizer, path)]:
        if not isinstance(text, str) or not isinstance(token, int) or token < 0:
            raise CompileError(f"{path} must give ids to texts, got {token!r} for {text!r}")
        texts[token] = text
    return texts


def added_texts(tokenizer: Json, path: Path) -> dict[str, int]:
    """Texts to ids of added tokens only."""
    return {text: token for text, token in _added(tokenizer, path) if isinstance(text, str) and isinstance(token, int)}


def _vocabulary(tokenizer: Json, path: Path) -> Iterator[tuple[Any, Any]]:
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    elif isinstance(vocabulary, list) and all(isinstance(entry, list) and entry for entry in vocabulary):
        yield from ((entry[0], i) for i, entry in enumerate(vocabulary))  # unigram: pairs of text and score
    else:
        raise CompileError(f"{path} lacks model.vocab: it is no tokenizer.json")


def _added(tokenizer: Json, path: Path) -> Iterator[tuple[Any, Any]]:
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise CompileError(f"added_tokens in {path} must be a list of objects")
    yield from ((token.get("content"), token.get("id")) for token in added)
