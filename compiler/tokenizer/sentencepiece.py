"""SentencePiece vocabularies of the BPE kind as a tokenizer.json: characters, merges by score, bytes for the rest."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from mistralrs_onnx.compiler.errors import CompileError

from .layout import Affixes, Json, Pipeline, bpe_model, check_merges, replace_text, sequence, tokenizer_json
from .vocabulary import NORMAL, UNUSED, Vocabulary

MAX_LENGTH = 512  # characters of a token; Gemma's longest has 31
SPACE = "\u2581"  # how tokens write a space


def sentencepiece_json(
    vocabulary: Vocabulary, scores: Sequence[float], affixes: Affixes, *, space_prefix: bool
) -> Json:
    """The content of tokenizer.json. `space_prefix`: text that follows no text gets a space before it.

    Raises CompileError for scores that do not rank the tokens.
    """
    return spaced_json(vocabulary, score_merges(vocabulary, scores), affixes, space_prefix=space_prefix)


def merged_json(vocabulary: Vocabulary, merges: Sequence[str], affixes: Affixes, *, space_prefix: bool) -> Json:
    """The same of a vocabulary that brings its merges."""
    check_merges(vocabulary.ids, merges)
    return spaced_json(vocabulary, merges, affixes, space_prefix=space_prefix)


def spaced_json(vocabulary: Vocabulary, merges: Sequence[str], affixes: Affixes, *, space_prefix: bool) -> Json:
    """Merges over whole texts, not words, whose spaces are written as SPACE."""
    prefix: list[Json] = [{"type": "Prepend", "prepend": SPACE}] if space_prefix else []
    strip: list[Json] = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space_prefix else []
    bytes_to_text: list[Json] = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    pipeline = Pipeline(
        normalizer=sequence("normalizers", [*prefix, replace_text(" ", SPACE)]),
        pre_tokenizer=None,
        decoder=sequence("decoders", [replace_text(SPACE, " "), *bytes_to_text, *strip]),
    )
    unknown = vocabulary.tokens[vocabulary.roles["unk"]] if "unk" in vocabulary.roles else None
    model = bpe_model(vocabulary.ids, merges, unknown=unknown, byte_fallback=True)
    return tokenizer_json(vocabulary, affixes, pipeline, model)


def score_merges(vocabulary: Vocabulary, scores: Sequence[float]) -> list[str]:
    """Every way to make a token of two others; the best token first, since SentencePiece always makes the best.

    Equal scores, which no trainer gives to two tokens, rank by id. Tokens that never match within text take no part:
    control and byte tokens, and those that are cut out before (user-defined).
    """
    if len(scores) != len(vocabulary.tokens):
        raise CompileError(f"tokens need one score each: got {len(scores)} for {len(vocabulary.tokens)} tokens")
    if any(map(math.isnan, scores)):
        raise CompileError("scores of tokens must be numbers, got NaN")
    parts = [i for i, kind in enumerate(vocabulary.types) if kind in (NORMAL, UNUSED)]
    ranked = [vocabulary.tokens[i] for i in sorted(parts, key=lambda i: -scores[i])]
    if len(longest := max(ranked, key=len, default="")) > MAX_LENGTH:
        raise CompileError(f"tokens must have at most {MAX_LENGTH} characters, got {len(longest)}: {longest[:40]!r}...")
    return list(_splits(ranked))


def _splits(ranked: Collection[str]) -> Iterator[str]:
    known = frozenset(ranked)
    for token in ranked:
        for i in range(len(token) - 1, 0, -1):
            if token[:i] in known and token[i:] in known:
                yield f"{token[:i]} {token[i:]}"
