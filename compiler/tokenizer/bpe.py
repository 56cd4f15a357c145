"""Byte-level BPE as a tokenizer.json: the format of the `tokenizers` library, which other hosts read too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mistralrs_onnx.compiler.errors import CompileError

from .profiles import Profile
from .vocabulary import AddedToken, Vocabulary


class Affixes(NamedTuple):
    """Texts of the tokens put before and after every prompt."""

    before: str | None
    after: str | None


def bpe_json(vocabulary: Vocabulary, merges: Sequence[str], profile: Profile, affixes: Affixes) -> dict[str, Any]:
    """The content of tokenizer.json. Raises CompileError for a merge of things that are no tokens."""
    check_merges(vocabulary, merges)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(token) for token in vocabulary.added],
        "normalizer": {"type": "NFC"} if profile.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _pre_tokenizers(vocabulary, profile)},
        "post_processor": _template(vocabulary, affixes),
        "decoder": _byte_level(decodes=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": profile.ignore_merges,
            "vocab": vocabulary.ids,
            "merges": list(merges),
        },
    }


def check_merges(vocabulary: Vocabulary, merges: Sequence[str]) -> None:
    """A merge is two tokens with one space between, and their concatenation is a token."""
    known = vocabulary.ids
    for i, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left not in known or right not in known or left + right not in known:
            raise CompileError(f"tokenizer.ggml.merges[{i}] must join two tokens into a third, got {merge!r}")


def _added_token(token: AddedToken) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token.id, "content": token.text, **flags, "special": token.special}


def _pre_tokenizers(vocabulary: Vocabulary, profile: Profile) -> list[dict[str, Any]]:
    """Cuts, then bytes to letters. A character without token is dropped, and must not let its neighbours merge."""
    lost = "".join(re.escape(chr(byte)) for byte in range(128) if _letter(byte) not in vocabulary.ids)
    regexes = [*profile.splits, f"[{lost}]"] if lost else profile.splits
    return [*map(_split, regexes), _byte_level(decodes=False)]


def _letter(byte: int) -> str:
    """How byte-level vocabularies write an ASCII byte: itself, or from U+0100 where it does not show."""
    return chr(byte) if 33 <= byte <= 126 else chr(256 + min(byte, 33))


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _byte_level(*, decodes: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": decodes, "trim_offsets": True, "use_regex": decodes}


def _template(vocabulary: Vocabulary, affixes: Affixes) -> dict[str, Any] | None:
    if affixes == (None, None):
        return None
    single = _affixed("A", 0, affixes)
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single + _affixed("B", 1, affixes),
        "special_tokens": {
            text: {"id": text, "ids": [vocabulary.ids[text]], "tokens": [text]} for text in affixes if text is not None
        },
    }


def _affixed(sequence: str, kind: int, affixes: Affixes) -> list[dict[str, Any]]:
    before, after = ([] if text is None else [{"SpecialToken": {"id": text, "type_id": kind}}] for text in affixes)
    return [*before, {"Sequence": {"id": sequence, "type_id": kind}}, *after]
