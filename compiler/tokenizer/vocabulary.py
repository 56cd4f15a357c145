"""Tokens of a GGUF file: their texts, kinds and special roles, all checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mistralrs_onnx.compiler.checkpoints.metadata import Metadata
from mistralrs_onnx.compiler.errors import CompileError

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # token types that match as whole text before words are cut
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "eot": "eot"}

# Ends of turn that chat models use beside the one that their metadata names.
ENDS = ("<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>")


class AddedToken(NamedTuple):
    """A token that is found in text as it stands; a special one only where special text is allowed."""

    id: int
    text: str
    special: bool


class SpecialIds(NamedTuple):
    """`eos`: every token that ends a reply, the one that the metadata names first."""

    bos: int | None
    eos: tuple[int, ...]
    pad: int | None


@dataclass(frozen=True)
class Vocabulary:
    """`roles` maps bos, eos, unk, pad and eot, where the file names them, to ids."""

    tokens: list[str]
    types: list[int]
    roles: dict[str, int]

    @cached_property
    def ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @property
    def added(self) -> list[AddedToken]:
        return [
            AddedToken(i, self.tokens[i], kind != USER_DEFINED)
            for i, kind in enumerate(self.types)
            if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ]

    @property
    def special_ids(self) -> SpecialIds:
        """Raises CompileError when nothing would ever end a reply."""
        named = [self.roles[role] for role in ("eos", "eot") if role in self.roles]
        ends = [self.ids[text] for text in ENDS if text in self.ids and self.types[self.ids[text]] == CONTROL]
        eos = tuple(dict.fromkeys(named + ends))
        if not eos:
            raise CompileError("metadata key tokenizer.ggml.eos_token_id is missing: nothing would end a reply")
        return SpecialIds(self.roles.get("bos"), eos, self.roles.get("pad"))


def read_vocabulary(metadata: Metadata) -> Vocabulary:
    """Raises CompileError where counts, ids or texts contradict each other."""
    tokens = metadata.strings("tokenizer.ggml.tokens")
    types = metadata.integers("tokenizer.ggml.token_type").tolist()
    if len(types) != len(tokens):
        raise CompileError(f"tokenizer.ggml.token_type must have {len(tokens)} entries, one a token, got {len(types)}")
    vocabulary = Vocabulary(tokens, types, _roles(metadata, len(tokens)))
    if len(vocabulary.ids) != len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocabulary.ids[token] != i)
        raise CompileError(f"tokenizer.ggml.tokens must be distinct, got {twice!r} twice")
    return vocabulary


def _roles(metadata: Metadata, num_tokens: int) -> dict[str, int]:
    keys = {role: f"tokenizer.ggml.{name}_token_id" for role, name in ROLES.items()}
    roles = {role: metadata.integer(key) for role, key in keys.items() if key in metadata}
    for role, token in roles.items():
        if not 0 <= token < num_tokens:
            raise CompileError(f"{keys[role]} must be below {num_tokens}, the number of tokens, got {token}")
    return roles
