"""Words that an answer must not contain, as the tokens that would write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Encoder(Protocol):
    """Text to token ids; `special`: with those that the model wants around every text."""

    def encode(self, text: str, *, special: bool = True) -> list[int]: ...


def word_tokens(words: Iterable[str], encoder: Encoder) -> tuple[tuple[int, ...], ...]:
    """The tokens of words at the beginning of a text and, where that is one other token, behind a space, as vLLM."""
    found: list[tuple[int, ...]] = []
    for word in words:
        bare = encoder.encode(word.lstrip(), special=False)
        spaced = encoder.encode(" " + word.lstrip(), special=False)
        found.append(tuple(bare or spaced))
        if bare and spaced and spaced[0] != bare[0] and len(spaced) == len(bare):
            found.append(tuple(spaced))
    return tuple(found)
