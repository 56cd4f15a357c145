"""Which tokens a row may choose at all: those of a grammar, allowed ones, no bad words, no end before its time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .core import Logits
from .rows import compiled_rows

Ids = NDArray[np.int64]
Bitmask = NDArray[np.int32]  # bit t % 32 of word t // 32: token t is allowed

FEW = 32  # of so many tokens it leaves one
_INF = np.float32(np.inf)
# Of each byte, the most that the logits of its eight tokens may be.
_CEILINGS = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), _INF, -_INF)


def num_words(vocab_size: int) -> int:
    return (vocab_size + 31) // 32


def leaves_few(bitmask: Bitmask, vocab_size: int) -> bool:
    """Whether taking what it leaves out of a row costs no more than looking at all."""
    assert bitmask.shape == (num_words(vocab_size),), f"a mask of {bitmask.shape} words for {vocab_size} tokens"
    return bool(np.bitwise_count(bitmask.view(np.uint32)).sum() <= vocab_size // FEW)


def few_allowed(bitmask: Bitmask, vocab_size: int) -> Ids | None:
    """Ascending tokens; None if they are not few. Bits beyond the vocabulary mean nothing, here and below."""
    if not leaves_few(bitmask, vocab_size):
        return None
    words = bitmask.nonzero()[0]
    bits = np.unpackbits(_octets(bitmask[words]), bitorder="little").view(np.bool_).nonzero()[0]
    token_ids: Ids = words[bits >> 5] * 32 + (bits & 31)
    return token_ids[: token_ids.searchsorted(vocab_size)]


def apply_bitmask(row: Logits, bitmask: Bitmask, out: Logits, space: Logits | None = None) -> None:
    """`space` (at least 32 a word,) is written to, if it is given."""
    assert bitmask.shape == (num_words(len(row)),), f"a mask of {bitmask.shape} words for {len(row)} tokens"
    if (rows := compiled_rows()) is not None:
        return rows.mask(row, bitmask, out)
    octets = _octets(bitmask)
    space = np.empty(8 * len(octets), np.float32) if space is None else space[: 8 * len(octets)]
    np.take(_CEILINGS, octets, axis=0, out=space.reshape(-1, 8), mode="clip")  # other modes copy
    np.minimum(row, space[: len(row)], out=out)
    return None


def _octets(bitmask: Bitmask) -> NDArray[np.uint8]:
    return bitmask.astype("<i4", copy=False).view(np.uint8)


def allow_only(row: Logits, token_ids: Ids) -> None:
    kept = row[token_ids]
    row.fill(-_INF)
    row[token_ids] = kept


def ban_words(row: Logits, words: Sequence[Sequence[int]], output: Ids) -> None:
    """The last token of each of the words of several tokens, where the output ends in all the others."""
    last = int(output[-1]) if len(output) else -1
    for *begun, end in words:
        if begun and begun[-1] == last and output[-len(begun) :].tolist() == begun:
            row[end] = -_INF


def ban(row: Logits, token_ids: Sequence[int] | Ids) -> None:
    row[np.asarray(token_ids, np.int64)] = -_INF
