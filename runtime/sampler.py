"""From logits to token ids: penalties, temperature, top-k, top-p, min-p, draw, in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .core import Logits
from .sampling import SamplingParams

FAILED = -1  # in place of a token id: the logits of the row were no numbers
LIKELY = 1e-3  # tokens at least this likely, relative to the likeliest, are tried first


class Context(Protocol):
    """What the choice of a row's token depends on beside its logits; a Request is one."""

    @property
    def params(self) -> SamplingParams: ...
    @property
    def seed(self) -> int: ...
    @property
    def num_output(self) -> int: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def output_counts(self) -> Mapping[int, int]: ...


class Sampler:
    """Chooses one token per row. Holds no state: the same row and context give the same token in any batch."""

    def sample(self, logits: Logits, contexts: Sequence[Context]) -> NDArray[np.int64]:
        """Token ids of the rows (R, vocab), FAILED where the largest logit is not finite. Leaves `logits` as it is."""
        token_ids: NDArray[np.int64] = logits.argmax(-1)  # a row with NaN gives the place of its first NaN
        failed = ~np.isfinite(logits[np.arange(len(logits)), token_ids])
        changed = [i for i, c in enumerate(contexts) if not c.params.is_greedy or c.params.has_penalties]
        changed = [i for i in changed if not failed[i]]
        if changed:
            token_ids[changed] = choose(logits[changed], [contexts[i] for i in changed])
        token_ids[failed] = FAILED
        return token_ids


def choose(logits: Logits, contexts: Sequence[Context]) -> NDArray[np.int64]:
    """Overwrites `logits` (R, vocab), whose rows are sampled or penalized."""
    for row, context in zip(logits, contexts, strict=True):
        if context.params.has_penalties:
            penalize(row, context)
    token_ids: NDArray[np.int64] = logits.argmax(-1)
    sampled = [i for i, context in enumerate(contexts) if not context.params.is_greedy]
    if sampled:
        weights = temper(logits[sampled], [contexts[i].params.temperature for i in sampled])
        token_ids[sampled] = [
            draw(row, contexts[i].params, uniform(contexts[i].seed, contexts[i].num_output))
            for row, i in zip(weights, sampled, strict=True)
        ]
    return token_ids


def penalize(logits: Logits, context: Context) -> None:
    """Of one row, in place. Repetition as in CTRL (arXiv 1909.05858), frequency and presence as in OpenAI's API."""
    params = context.params
    if params.repetition_penalty != 1:
        window = context.token_ids[-params.repeat_last_n :]  # -0: all of them
        seen = np.fromiter(set(window), np.int64)
        old, factor = logits[seen], np.float32(params.repetition_penalty)
        logits[seen] = np.where(old > 0, old / factor, old * factor)
    if params.counts_output and context.output_counts:
        counts = context.output_counts
        seen = np.fromiter(counts.keys(), np.int64, len(counts))
        times = np.fromiter(counts.values(), np.float32, len(counts))
        logits[seen] -= np.float32(params.frequency_penalty) * times + np.float32(params.presence_penalty)


def temper(logits: Logits, temperatures: Sequence[float]) -> Logits:
    """Probabilities relative to the likeliest token of each row, whose weight is 1. Overwrites `logits`."""
    logits -= logits.max(-1, keepdims=True)
    with np.errstate(over="ignore"):  # far below the likeliest: -inf, weight 0
        logits /= np.array(temperatures, np.float32)[:, None]
    return np.exp(logits, out=logits)


def draw(weights: Logits, params: SamplingParams, u: float) -> int:
    """The token at `u` in [0, 1) of the distribution that the filters leave of `weights` (vocab,)."""
    if params.top_k <= 0 and params.top_p == 1:
        kept = np.where(weights >= params.min_p, weights, 0) if params.min_p else weights
        return inverse_cdf(kept, u)
    token_ids = top_k(weights, params.top_k) if params.top_k > 0 else nucleus(weights, params.top_p)
    likely = weights[token_ids]
    if params.top_k > 0 and params.top_p < 1:
        likely = likely[: num_within(likely, params.top_p, float(likely.sum(dtype=np.float64)))]
    likely = likely[: max(1, int((likely >= params.min_p).sum()))]
    return int(token_ids[inverse_cdf(likely, u)])


def top_k(weights: Logits, k: int) -> NDArray[np.int64]:
    """The k largest, in descending order; of equals the lower id."""
    likely = np.flatnonzero(weights >= LIKELY)
    if len(likely) < k < len(weights):
        likely = np.flatnonzero(weights >= np.partition(weights, len(weights) - k)[len(weights) - k])
    elif len(likely) < k:
        likely = np.arange(len(weights))
    return _descending(weights, likely)[:k]


def nucleus(weights: Logits, top_p: float) -> NDArray[np.int64]:
    """The fewest tokens that carry `top_p` of the whole row, in descending order; of equals the lower id.

    Tokens under (1 - top_p) · total / vocab carry less than 1 - top_p together, so those above always suffice;
    half of that leaves room for rounding.
    """
    total = float(weights.sum(dtype=np.float64))
    least = (1 - top_p) * total / len(weights) / 2
    floor = LIKELY
    likely = np.flatnonzero(weights >= floor)
    while floor > least and weights[likely].sum(dtype=np.float64) < top_p * total:
        floor = max(floor / 10, least)
        likely = np.flatnonzero(weights >= floor)
    likely = _descending(weights, likely)
    return likely[: num_within(weights[likely], top_p, total)]


def num_within(descending: Logits, top_p: float, total: float) -> int:
    """How many leading weights it takes to carry `top_p` of `total`; at least one."""
    mass = np.cumsum(descending, dtype=np.float64)
    return int(np.searchsorted(mass, top_p * total)) + 1


def inverse_cdf(weights: Logits, u: float) -> int:
    mass = np.cumsum(weights, dtype=np.float64)
    target = min(u * mass[-1], np.nextafter(mass[-1], 0))  # below the total, so some token with weight is beyond it
    return int(np.searchsorted(mass, target, side="right"))


def uniform(seed: int, position: int) -> float:
    """In [0, 1), a function of its arguments alone: a token computed again is drawn again as it was."""
    bits = np.random.Philox(key=seed % 2**64, counter=position).random_raw()
    return float(int(bits) >> 11) * 2.0**-53


def _descending(weights: Logits, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    return token_ids[np.argsort(-weights[token_ids], kind="stable")]
