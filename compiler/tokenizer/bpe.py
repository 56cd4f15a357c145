"""Byte-level BPE as a tokenizer.json."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .layout import Affixes, Json, Pipeline, bpe_model, check_merges, sequence, split, tokenizer_json
from .profiles import Profile
from .vocabulary import Vocabulary


def bpe_json(vocabulary: Vocabulary, merges: Sequence[str], profile: Profile, affixes: Affixes) -> Json:
    """The content of tokenizer.json. Raises CompileError for a merge of things that are no tokens."""
    check_merges(vocabulary.ids, merges)
    pipeline = Pipeline(
        normalizer={"type": "NFC"} if profile.nfc else None,
        pre_tokenizer=sequence("pretokenizers", _pre_tokenizers(vocabulary, profile)),
        decoder=_byte_level(decodes=True),
    )
    model = bpe_model(vocabulary.ids, merges, ignore_merges=profile.ignore_merges)
    return tokenizer_json(vocabulary, affixes, pipeline, model)


def _pre_tokenizers(vocabulary: Vocabulary, profile: Profile) -> list[Json]:
    """Cuts, then bytes to letters. A character without token is dropped, and must not let its neighbours merge."""
    lost = "".join(re.escape(chr(byte)) for byte in range(128) if _letter(byte) not in vocabulary.ids)
    regexes = [*profile.splits, f"[{lost}]"] if lost else profile.splits
    return [*map(split, regexes), _byte_level(decodes=False)]


def _letter(byte: int) -> str:
    """How byte-level vocabularies write an ASCII byte: itself, or from U+0100 where it does not show."""
    return chr(byte) if 33 <= byte <= 126 else chr(256 + min(byte, 33))


def _byte_level(*, decodes: bool) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": decodes, "trim_offsets": True, "use_regex": decodes}
