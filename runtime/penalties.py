"""What tokens that were seen lose, in place, of one row of logits (vocab,); knows arrays of token ids alone."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .core import Logits
from .rows import compiled_rows

Ids = NDArray[np.int64]
Losses = NDArray[np.float32]

MAX_MATCH = 50  # tokens; a longer repetition is punished as one of so many
MOST = 1e30  # what DRY subtracts at most: finite, or a row could have no token left


def repeat(row: Logits, seen: Ids, penalty: float) -> None:
    """Divides positive and multiplies negative logits of `seen` tokens, once each (arXiv 1909.05858)."""
    if (rows := compiled_rows()) is not None:
        return rows.repeat(row, seen, penalty)
    old, factor = row[seen], np.float32(penalty)
    row[seen] = (np.minimum if penalty > 1 else np.maximum)(old / factor, old * factor)
    return None


def count(row: Logits, output: Ids, frequency: float, presence: float) -> None:
    """Subtracts count · frequency + presence from each token of the output (OpenAI's API)."""
    if (rows := compiled_rows()) is not None:
        return rows.count(row, output, frequency, presence)
    if presence:
        row[output] = row[output] - np.float32(presence)
    if frequency:
        np.subtract.at(row, output, np.float32(frequency))
    return None


def dry(
    row: Logits, context: Ids, breakers: AbstractSet[int], multiplier: float, base: float, allowed_length: int
) -> None:
    """Do not repeat yourself: subtracts multiplier · base^(m - allowed_length) from what would prolong a repetition.

    A token that followed an earlier occurrence of the end of the context has as m the length of that occurrence, the
    longest of several; breakers end it, and are never punished (text-generation-webui, pull request 5677).
    """
    costs = losses(multiplier, base, allowed_length)
    if (rows := compiled_rows()) is not None:
        return rows.dry(row, context, np.fromiter(breakers, np.int64, len(breakers)), allowed_length, costs)
    token_ids, lengths = repetitions(context, breakers, allowed_length)
    if len(token_ids):
        np.minimum.at(row, token_ids, row[token_ids] - costs[lengths - allowed_length])  # the longest costs most
    return None


@lru_cache
def losses(multiplier: float, base: float, allowed_length: int) -> Losses:
    """What DRY subtracts for repetitions as long as allowed, one token longer, ... up to MAX_MATCH."""
    costs: Losses = np.minimum(multiplier * base ** np.arange(MAX_MATCH - allowed_length + 1), MOST).astype(np.float32)
    return costs


def repetitions(context: Ids, breakers: AbstractSet[int], at_least: int) -> tuple[Ids, Ids]:
    """What followed earlier occurrences of the last tokens of the context, `at_least` so many: token ids, lengths.

    Lengths are counted up to MAX_MATCH.
    """
    last = context[-at_least:].tolist()
    if len(context) <= at_least or not breakers.isdisjoint(last):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    is_there = context[at_least - 1 : -1] == last[-1]
    for back in range(1, at_least):
        is_there &= context[at_least - 1 - back : -1 - back] == last[-1 - back]
    ends = is_there.nonzero()[0] + at_least - 1
    if breakers:
        column = np.fromiter(breakers, np.int64, len(breakers))[:, None]
        ends = ends[~(context[ends + 1] == column).any(0)]
    lengths, alive, places = np.full(len(ends), at_least), np.arange(len(ends)), ends
    for back in range(at_least, min(MAX_MATCH, len(context))):
        token_id = int(context[-1 - back])
        if token_id in breakers or not len(alive):
            break
        is_longer = (context[places - back] == token_id) & (places >= back)
        alive, places = alive[is_longer], places[is_longer]
        lengths[alive] = back + 1
    return context[ends + 1], lengths
