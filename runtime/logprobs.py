"""Natural logarithms of the probabilities that the model itself gives, before anything changes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .core import Logits
from .filters import MODERATE
from .leading import SORTED, Groups, Workspace, largest
from .sums import total

LEAST = -9999.0  # JSON has no infinity; as vLLM


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


def token_logprobs(row: Logits, token_id: int, num_top: int, space: Workspace | None = None) -> TokenLogprobs:
    """Of one row of the model's logits (vocab,). Alternatives without probability are left out."""
    groups = Groups(row)
    normalizer = log_sum_exp(row, space, groups.highest)
    places = likeliest(groups, num_top)
    logits, own = row[places].tolist(), float(row[token_id])
    likely = [logit for logit in logits if logit > -math.inf]
    top = tuple(map(TokenLogprob, places, [logit - normalizer for logit in likely]))
    if logits and own > logits[-1]:
        return TokenLogprobs(token_id, own - normalizer, top, sum(logit >= own for logit in logits))
    is_ahead = np.greater_equal(row, row[token_id], out=None if space is None else space.above)
    return TokenLogprobs(token_id, own - normalizer, top, int(np.count_nonzero(is_ahead)))


def prompt_logprobs(logits: Logits, token_ids: Sequence[int], num_top: int) -> Iterator[TokenLogprobs]:
    """Row i of `logits` (num_tokens, vocab) is what the model said before it read `token_ids[i]`."""
    space = Workspace(logits.shape[1])
    for row, token_id in zip(logits, token_ids, strict=True):
        yield token_logprobs(row, int(token_id), num_top, space)


def log_sum_exp(row: Logits, space: Workspace | None = None, highest: np.float32 | None = None) -> float:
    """`highest`: of the row, where it is known."""
    highest = row.max() if highest is None else highest
    out = None if space is None else space.scaled
    if abs(float(highest)) < MODERATE:
        return math.log(total(np.exp(row, out=out)))
    shifted = np.subtract(row, highest, out=out)
    return float(highest) + math.log(total(np.exp(shifted, out=shifted)))


def likeliest(groups: Groups, num_top: int) -> list[int]:
    """Places of the largest, descending; of equals the lower first."""
    if not num_top:
        return []
    places = groups.at_least(groups.bound(num_top))
    if len(places) > SORTED:
        places = largest(groups, num_top)
    order: list[int] = places[np.argsort(-groups.row[places], kind="stable")[:num_top]].tolist()
    return order


def mean_logprob(scores: Sequence[TokenLogprobs]) -> float:
    """Of the tokens of an answer; that without any is the worst."""
    return sum(max(score.logprob, LEAST) for score in scores) / len(scores) if scores else LEAST
