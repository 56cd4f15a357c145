"""Natural logarithms of the probabilities that the model itself gives, before anything changes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .core import Logits
from .leading import SORTED, Groups, Ids, Workspace, largest
from .rows import compiled_rows
from .sums import BLOCK, block_sums

LEAST = -9999.0  # JSON has no infinity; as vLLM
LIGHTEST = 1e-20  # sums of exponentials from which on what float32 has no numbers for does not matter
ROUNDING = 1e-5  # of exponentials in float32 and sums of 256, relative


class TokenLogprob(NamedTuple):
    """A token and the natural logarithm of its probability."""

    token_id: int
    logprob: float


class TokenLogprobs(NamedTuple):
    """Of the token at one place, and of the likeliest there: descending, of equals the lower id first."""

    token_id: int
    logprob: float
    top: tuple[TokenLogprob, ...]
    rank: int = 0  # of the token, 1 for the likeliest; 0: not known


class Top(NamedTuple):
    """Places of the largest logits, descending, and these; of equals the lower first."""

    places: list[int]
    logits: list[float]


class Overview(NamedTuple):
    """What a pass over a row of logits tells, before anything is asked about one of its tokens."""

    normalizer: float  # the logarithm of the sum of exponentials
    blocks: Logits  # the largest of each, or with numpy alone what it weighs: the sum of exp(x - shift)
    shift: float = 0.0
    top: Top | None = None  # as many as are asked for


def overview(row: Logits, space: Workspace | None = None) -> Overview:
    if (rows := compiled_rows()) is not None:
        return Overview(*rows.overview(row))
    sums, shift = exponential_sums(row, space)
    return Overview(shift + math.log(float(sums.sum(dtype=np.float64))), sums, shift)


def token_logprobs(
    row: Logits, token_id: int, num_top: int, space: Workspace | None = None, seen: Overview | None = None
) -> TokenLogprobs:
    """Of one row of the model's logits (vocab,). Alternatives without probability are left out. `seen`: of the row."""
    seen = overview(row, space) if seen is None else seen
    own, (places, logits) = float(row[token_id]), _top(row, seen, num_top) if seen.top is None else seen.top
    if logits and own > logits[-1]:
        rank = sum(logit >= own for logit in logits)
    else:
        rank = _rank(row, seen, own, space)
    likely = [logit - seen.normalizer for logit in logits if logit > -math.inf]
    top = tuple(map(TokenLogprob._make, zip(places, likely, strict=False)))
    return TokenLogprobs(token_id, own - seen.normalizer, top, rank)


def _top(row: Logits, seen: Overview, num_top: int) -> Top:
    if (rows := compiled_rows()) is not None:
        places = rows.top(row, seen.blocks, num_top)
    else:
        places = likeliest(row, num_top, seen.blocks, seen.shift)
    return Top(places, row[places].tolist())


def _rank(row: Logits, seen: Overview, own: float, space: Workspace | None) -> int:
    """How many are not less."""
    if (rows := compiled_rows()) is not None:
        return rows.rank(row, seen.blocks, own)
    is_ahead = np.greater_equal(row, np.float32(own), out=None if space is None else space.above)
    return int(np.count_nonzero(is_ahead))


def prompt_logprobs(logits: Logits, token_ids: Sequence[int], num_top: int) -> Iterator[TokenLogprobs]:
    """Row i of `logits` (num_tokens, vocab) is what the model said before it read `token_ids[i]`."""
    space = Workspace(logits.shape[1])
    for row, token_id in zip(logits, token_ids, strict=True):
        yield token_logprobs(row, int(token_id), num_top, space)


def exponential_sums(row: Logits, space: Workspace | None = None) -> tuple[Logits, float]:
    """The sum of exp(x - shift) of each block of `sums.py`, and the shift, which is 0 for moderate logits."""
    out = None if space is None else space.scaled
    with np.errstate(over="ignore"):
        sums = block_sums(np.exp(row, out=out))
    if LIGHTEST < float(sums.sum(dtype=np.float64)) < math.inf:
        return sums, 0.0
    highest = row.max()
    shifted = np.subtract(row, highest, out=out)
    return block_sums(np.exp(shifted, out=shifted)), float(highest)


def likeliest(row: Logits, num_top: int, sums: Logits, shift: float) -> list[int]:
    """Places of the largest, descending; of equals the lower first. `sums`: what `exponential_sums` has of the row.

    The largest of each of the `num_top` heaviest blocks are so many tokens: what is among the largest is not less than
    the least of them, and a block that has it weighs as much.
    """
    num_blocks = len(row) // BLOCK
    if not num_top:
        return []
    if num_top > num_blocks // 8:
        return _likeliest_of_groups(row, num_top)
    blocks = row[: num_blocks * BLOCK].reshape(num_blocks, BLOCK)
    heaviest = np.argpartition(sums[:num_blocks], -num_top)[-num_top:]
    least = blocks[heaviest].max(1).min()
    found = (sums[:num_blocks] >= math.exp(float(least) - shift) * (1 - ROUNDING)).nonzero()[0]
    if len(found) > num_blocks // 8:
        return _likeliest_of_groups(row, num_top)
    lines, columns = np.divmod((blocks[found] >= least).ravel().nonzero()[0], BLOCK)
    rest = (row[num_blocks * BLOCK :] >= least).nonzero()[0]
    return _ordered(row, np.concatenate([found[lines] * BLOCK + columns, num_blocks * BLOCK + rest]), num_top)


def _likeliest_of_groups(row: Logits, num_top: int) -> list[int]:
    groups = Groups(row)
    places = groups.at_least(groups.bound(num_top))
    return _ordered(row, places if len(places) <= SORTED else largest(groups, num_top), num_top)


def _ordered(row: Logits, places: Ids, num_top: int) -> list[int]:
    order: list[int] = places[np.argsort(-row[places], kind="stable")[:num_top]].tolist()
    return order


def mean_logprob(scores: Sequence[TokenLogprobs]) -> float:
    """Of the tokens of an answer; that without any is the worst."""
    return sum(max(score.logprob, LEAST) for score in scores) / len(scores) if scores else LEAST
