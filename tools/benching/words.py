"""Texts that have as many tokens as words, for benchmarks that cannot send token ids."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tokenizers import Tokenizer

NUM_WORDS = 500


def single_token_words(tokenizer: Tokenizer) -> list[str]:
    """Words with a space before them that are one token each, chosen at random, the same ones each time."""
    vocab = [token[1:] for token in sorted(tokenizer.get_vocab()) if token[0] == "Ġ" and token[1:].isalpha()]
    words = [f" {word}" for word in vocab if word.isascii() and word.islower()]
    random.Random(0).shuffle(words)
    return [word for word in words[: 2 * NUM_WORDS] if len(tokenizer.encode(word).ids) == 1][:NUM_WORDS]


def sentence(words: Sequence[str], num_words: int) -> str:
    """Another one each time."""
    return "".join(random.choices(words, k=num_words))
