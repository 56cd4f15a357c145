"""What every tokenizer.json has in common: the format of the `tokenizers` library, which other hosts read too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mistralrs_onnx.compiler.errors import CompileError

from .vocabulary import AddedToken, Vocabulary

Json = dict[str, Any]


class Affixes(NamedTuple):
    """Texts of the tokens put before and after every prompt."""

    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps around the merges, each as tokenizer.json writes it; None where there is nothing to do."""

    normalizer: Json | None
    pre_tokenizer: Json | None
    decoder: Json


def tokenizer_json(vocabulary: Vocabulary, affixes: Affixes, pipeline: Pipeline, model: Json) -> Json:
    """The content of tokenizer.json."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(token) for token in vocabulary.added],
        "normalizer": pipeline.normalizer,
        "pre_tokenizer": pipeline.pre_tokenizer,
        "post_processor": _template(vocabulary, affixes),
        "decoder": pipeline.decoder,
        "model": model,
    }


def bpe_model(
    ids: Mapping[str, int],
    merges: Sequence[str],
    *,
    unknown: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> Json:
    """`byte_fallback`: a character without token becomes the tokens of its bytes. `unknown`: the rest becomes it."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": ids,
        "merges": list(merges),
    }


def check_merges(ids: Mapping[str, int], merges: Sequence[str]) -> None:
    """A merge is two tokens with one space between, and their concatenation is a token. Raises CompileError."""
    for i, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise CompileError(f"tokenizer.ggml.merges[{i}] must join two tokens into a third, got {merge!r}")


def sequence(kind: str, steps: Sequence[Json]) -> Json:
    """Steps one after the other. `kind`: the plural under which they are written."""
    return {"type": "Sequence", kind: list(steps)}


def split(regex: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def replace_text(old: str, new: str) -> Json:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def added_token(token: AddedToken) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": token.strips_right, "normalized": False}
    return {"id": token.id, "content": token.text, **flags, "special": token.special}


def _template(vocabulary: Vocabulary, affixes: Affixes) -> Json | None:
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


def _affixed(letter: str, kind: int, affixes: Affixes) -> list[Json]:
    before, after = ([] if text is None else [{"SpecialToken": {"id": text, "type_id": kind}}] for text in affixes)
    return [*before, {"Sequence": {"id": letter, "type_id": kind}}, *after]
