"""A tokenizer.json from elsewhere, taken for a checkpoint whose tokens are the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mistralrs_onnx.compiler.errors import CompileError

from .folder import GENERATION_CONFIG, folder_template, named_ids
from .layout import Json
from .sentencepiece import SPACE
from .token_texts import token_texts
from .tokenizer_file import read_tokenizer, read_tokenizer_config
from .vocabulary import UNUSED, SpecialIds, Vocabulary

PADDING = ("[PAD", "[EMPTY_", "<dummy")  # how converters call tokens that only fill a table up


class External(NamedTuple):
    """A tokenizer.json whose tokens were compared; the chat template and the ends of replies that its folder names."""

    tokenizer: bytes
    template: str | None = None
    ends: tuple[int, ...] = ()


def read_external(path: Path, vocabulary: Vocabulary) -> External:
    """`path`: a tokenizer.json or a folder with one. Raises CompileError for tokens unlike those of `vocabulary`."""
    if not path.is_dir():
        return External(_agreeing(path, {}, vocabulary))
    config = read_tokenizer_config(path)
    tokenizer = _agreeing(path / "tokenizer.json", config, vocabulary)
    ends = named_ids(path / GENERATION_CONFIG, "eos_token_id", dict(enumerate(vocabulary.tokens)))
    return External(tokenizer, folder_template(path, config), tuple(ends))


def _agreeing(path: Path, config: Json, vocabulary: Vocabulary) -> bytes:
    tokenizer = read_tokenizer(path, config)
    check_agreement(token_texts(tokenizer.values, path), vocabulary, path)
    return tokenizer.content


def check_agreement(texts: Mapping[int, str], vocabulary: Vocabulary, path: Path) -> None:
    """Every id must have one text in both. Only padding may be missing outside."""
    num_tokens = len(vocabulary.tokens)
    if (largest := max(texts, default=0)) >= num_tokens:
        raise CompileError(f"{path} has token {largest} ({texts[largest]!r}), but the checkpoint only {num_tokens}")
    for i, token in enumerate(vocabulary.tokens):
        text = texts.get(i)
        if text is None and vocabulary.types[i] != UNUSED and not token.startswith(PADDING):
            raise CompileError(f"{path} lacks token {i}, which is {token!r} in the checkpoint")
        if text is not None and _plain(text) != _plain(token):
            raise CompileError(f"token {i} is {text!r} in {path}, but {token!r} in the checkpoint")


def with_ends(ids: SpecialIds, ends: tuple[int, ...]) -> SpecialIds:
    return ids._replace(eos=tuple(dict.fromkeys(ids.eos + ends)))


def _plain(text: str) -> str:
    """GGUF files write the spaces of added tokens as spaces."""
    return text.replace(SPACE, " ")
