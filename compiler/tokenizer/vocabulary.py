"""Tokens of a checkpoint: their texts, kinds and special roles, all checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mistralrs_onnx.compiler.checkpoints.metadata import Metadata
from mistralrs_onnx.compiler.errors import CompileError

from .ends import end_ids

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token types, as SentencePiece has them
WHOLE = (UNKNOWN, CONTROL, USER_DEFINED)  # these match as whole text before words are cut
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "eot": "eot", "eom": "eom"}


class AddedToken(NamedTuple):
    """A token that is found in text as it stands; a special one only where special text is allowed.

    `strips_right`: white space after it is dropped.
    """

    id: int
    text: str
    special: bool
    strips_right: bool = False


class SpecialIds(NamedTuple):
    """`eos`: every token that ends a reply, the one that the checkpoint names first."""

    bos: int | None
    eos: tuple[int, ...]
    pad: int | None


@dataclass(frozen=True)
class Vocabulary:
    """`roles` maps bos, eos, unk, pad, eot and eom, where the file names them, to ids.

    `strips_right`: added tokens that drop the white space after them.
    """

    tokens: list[str]
    types: list[int]
    roles: Mapping[str, int]
    strips_right: frozenset[int] = frozenset()

    @cached_property
    def ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @property
    def added(self) -> list[AddedToken]:
        return [
            AddedToken(i, self.tokens[i], kind != USER_DEFINED, i in self.strips_right)
            for i, kind in enumerate(self.types)
            if kind in WHOLE
        ]

    @property
    def special_ids(self) -> SpecialIds:
        """Raises CompileError when nothing would ever end a reply."""
        named = [self.roles[role] for role in ("eos", "eot", "eom") if role in self.roles]
        eos = end_ids(named, {token.text: token.id for token in self.added})
        if not eos:
            raise CompileError("metadata key tokenizer.ggml.eos_token_id is missing: nothing would end a reply")
        return SpecialIds(self.roles.get("bos"), eos, self.roles.get("pad"))

    def check(self) -> None:
        """Raises CompileError where two tokens have one text, or a role has no token."""
        if len(self.ids) != len(self.tokens):
            twice = next(token for i, token in enumerate(self.tokens) if self.ids[token] != i)
            raise CompileError(f"tokenizer.ggml.tokens must be distinct, got {twice!r} twice")
        for role, token in self.roles.items():
            if not 0 <= token < len(self.tokens):
                key = f"tokenizer.ggml.{ROLES[role]}_token_id"
                raise CompileError(f"{key} must be below {len(self.tokens)}, the number of tokens, got {token}")


def read_vocabulary(metadata: Metadata) -> Vocabulary:
    """Raises CompileError where counts, ids or texts contradict each other."""
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(metadata.strings("tokenizer.ggml.tokens"))]
    types = metadata.integers("tokenizer.ggml.token_type").tolist()
    if len(types) != len(tokens):
        raise CompileError(f"tokenizer.ggml.token_type must have {len(tokens)} entries, one a token, got {len(types)}")
    keys = {role: f"tokenizer.ggml.{name}_token_id" for role, name in ROLES.items()}
    named = {role: metadata.integer(key) for role, key in keys.items() if key in metadata}
    vocabulary = Vocabulary(tokens, types, _defaults(metadata, len(tokens)) | named, _strips_right(metadata, tokens))
    vocabulary.check()
    return vocabulary


def _defaults(metadata: Metadata, num_tokens: int) -> dict[str, int]:
    """The ids of Llama, which SentencePiece models have where their file names no others."""
    if metadata.string("tokenizer.ggml.model") != "llama":
        return {}
    return {role: i for i, role in enumerate(("unk", "bos", "eos")) if i < num_tokens}


def _strips_right(metadata: Metadata, tokens: list[str]) -> frozenset[int]:
    """Phi-3 drops white space after its added tokens; GGUF files have no place to say so but the model's name."""
    name = metadata.string("general.name", "").lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    keep = ("<unk>", "<s>", "<|endoftext|>")
    return frozenset(i for i, token in enumerate(tokens) if token not in keep)
