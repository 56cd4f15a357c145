"""From logits to token ids: everything that changes a choice, in the order that `Sampler` says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np

from . import masks, penalties
from .core import Logits
from .errors import RequestError
from .filters import Distribution, distribution, draw_unfiltered
from .leading import Groups, Ids, Workspace
from .logprobs import TokenLogprobs, token_logprobs
from .near import near_tokens
from .rejection import draw_kept
from .together import Context, Looked, Together

FAILED = -1  # in place of a token id: the logits of the row were no numbers
EXHAUSTED = -2  # what the request asks for leaves no token
STEP = 0x9E3779B97F4A7C15  # of SplitMix64


class Sampled(NamedTuple):
    """Of each row its token, or FAILED or EXHAUSTED, and how likely the model had it, where that is asked for."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]


class Sampler:
    """Chooses one token per row. Holds no state: the same row and context give the same token in any batch.

    1. Masks: a grammar's, `allowed_token_ids`, `bad_words`, and before `min_tokens` whatever ends the output.
    2. DRY. 3. Repetition, frequency and presence penalties. 4. `logit_bias`.
    5. Temperature (0: the largest logit is chosen, and the rest of the chain has nothing to do).
    6. Top-k. 7. Top-p. 8. Min-p. 9. Typical-p. 10. The draw.

    Masks come first since what has no probability stays without: no later step gives it any, and a row without
    tokens is found before time is spent on it. Biases come after penalties, so that a bias adds what it says: the
    repetition penalty, which scales, would scale it too. Where all penalties are sums, as in OpenAI's API, there is no
    difference.
    """

    def __init__(self, eos_token_ids: frozenset[int] = frozenset(), num_threads: int = 1) -> None:
        """`num_threads`: that look at rows before tokens are drawn on the caller's."""
        self._eos_token_ids = eos_token_ids
        self._together = Together(num_threads)
        self._space = Workspace(0)  # of no meaning between two rows

    def sample(self, logits: Logits, contexts: Sequence[Context]) -> Sampled:
        """Of rows (R, vocab), which it leaves as they are."""
        looked = self._together.look_at(logits, contexts)
        with np.errstate(over="ignore"):
            pairs = [self._sample(*of_row) for of_row in zip(logits, contexts, looked, strict=True)]
        return Sampled([token_id for token_id, _ in pairs], [logprobs for _, logprobs in pairs])

    def distribution(self, logits: Logits, context: Context) -> Distribution | int:
        """What one row (vocab,) is drawn from, a single token if it is greedy; or FAILED or EXHAUSTED.

        Valid until the next call.
        """
        row, token_ids = self._edited(logits, context)
        highest = row.max()
        if not np.isfinite(highest):
            return _failure_of(highest, logits)
        if context.params.is_greedy:
            best = np.array([row.argmax()])
            return Distribution(best if token_ids is None else token_ids[best], np.ones(1, np.float32))
        with np.errstate(over="ignore"):
            return distribution(Groups(row), context.params, token_ids, self._space)

    def _space_for(self, row: Logits) -> Workspace:
        if len(row) != self._space.num_tokens:
            self._space = Workspace(len(row))
        return self._space

    def _sample(self, row: Logits, context: Context, looked: Looked | None) -> tuple[int, TokenLogprobs | None]:
        looked, space = self._look_at(row, context) if looked is None else looked, self._space_for(row)
        if not np.isfinite(looked.highest):
            return _failure_of(looked.highest, row), None
        token_id, num_top = _choose(looked, context, space), context.params.logprobs
        told = None if num_top is None else token_logprobs(row, token_id, num_top, space, looked.seen)
        return token_id, told

    def _look_at(self, logits: Logits, context: Context) -> Looked:
        row, token_ids = self._edited(logits, context)
        if not context.params.is_greedy:
            groups = Groups(row)
            return Looked(row, groups.highest, token_ids, groups)
        best = int(row.argmax())  # of a row with NaN the place of the first
        return Looked(row, row[best], token_ids, best=best)

    def _edited(self, row: Logits, context: Context) -> tuple[Logits, Ids | None]:
        """Logits after masks, penalties and biases: all of them, or those of the tokens that come with them."""
        space = self._space_for(row)
        if _is_plain(context):
            return row, None
        logits, token_ids = space.edited, None
        if context.mask is not None:
            token_ids = masks.few_allowed(context.mask, len(row))
        if token_ids is not None and not context.params.edits_logits and len(token_ids):
            return row[token_ids], token_ids
        if token_ids is not None:
            logits.fill(-np.inf)
            logits[token_ids] = row[token_ids]
        elif context.mask is not None:
            masks.apply_bitmask(row, context.mask, logits, space.products)
        else:
            np.copyto(logits, row)
        if _mask(logits, context, self._eos_token_ids):
            token_ids = _few_allowed(logits)
        _penalize(logits, context)
        return (logits, None) if token_ids is None or not len(token_ids) else (logits[token_ids], token_ids)


def _choose(looked: Looked, context: Context, space: Workspace) -> int:
    params, groups, token_ids = context.params, looked.groups, looked.token_ids
    if groups is None:
        place = looked.best
    else:
        uniforms = map(partial(uniform, context.seed, len(context.history) - context.num_prompt), count())
        if not params.has_filters:
            near = near_tokens(groups, params.temperature)
            place = draw_unfiltered(groups, params.temperature, near, uniforms, space)
        elif (kept := draw_kept(groups, params, uniforms, space)) is not None:
            place = kept
        else:
            return distribution(groups, params, token_ids, space).draw(next(uniforms))
    return place if token_ids is None else int(token_ids[place])


def failure(code: int) -> RequestError | None:
    """What to tell the owner of a row that has `code` in place of a token."""
    if code == EXHAUSTED:
        message = (
            "no token is left to choose: the grammar, allowed_token_ids, bad_words and min_tokens exclude all of them"
            " at this place of the output; relax one"
        )
        return RequestError(message, code="no_token_left")
    if code == FAILED:
        message = "the model's output is not a number: the log of the server says more"
        return RequestError(message, status=500, code="internal_error")
    return None


def _failure_of(highest: float | np.float32, logits: Logits) -> int:
    """Why the largest of a row's logits is no number; `logits`: before masks."""
    return EXHAUSTED if highest == -np.inf and np.isfinite(logits.max()) else FAILED


def uniform(seed: int, position: int, attempt: int = 0) -> float:
    """In [0, 1), a function of its arguments alone: a token computed again is drawn again as it was (SplitMix64)."""
    bits = _mixed(_mixed(seed % 2**64) + (position + 1) * STEP)
    if attempt:
        bits = _mixed(bits + attempt * STEP)
    return (bits >> 11) * 2.0**-53


def _mixed(z: int) -> int:
    """A permutation of 64 bits in which each depends on all: Stafford's variant 13, of java.util.SplittableRandom."""
    z &= 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def _is_plain(context: Context) -> bool:
    return context.mask is None and not context.params.edits_logits


def _mask(row: Logits, context: Context, eos_token_ids: frozenset[int]) -> bool:
    """What the request itself rules out. Whether it changed anything."""
    params, output = context.params, context.history[context.num_prompt :]
    if params.allowed_ids is not None:
        masks.allow_only(row, params.allowed_ids)
    if params.bad_words:
        masks.ban(row, params.banned_ids)
        masks.ban_words(row, params.bad_words, output)
    is_early = len(output) < params.min_tokens
    if is_early:
        ends = params.stop_token_ids if params.ignore_eos else params.stop_token_ids | eos_token_ids
        masks.ban(row, [token_id for token_id in ends if token_id < len(row)])  # a tokenizer may have more
    return params.allowed_ids is not None or bool(params.bad_words) or is_early


def _few_allowed(row: Logits) -> Ids | None:
    """The tokens that masks have left, unless they are so many that looking at all takes less time."""
    is_allowed = row > -np.inf
    return np.flatnonzero(is_allowed) if np.count_nonzero(is_allowed) < len(row) // 8 else None


def _penalize(row: Logits, context: Context) -> None:
    """DRY, penalties and biases, in place."""
    params, history = context.params, context.history
    if params.dry_multiplier:
        assert len(params.breaker_ids) == len(set(params.dry_sequence_breakers)), "texts are made token ids before"
        breakers = frozenset(params.breaker_ids.tolist())
        how = params.dry_multiplier, params.dry_base, params.dry_allowed_length
        penalties.dry(row, history[-params.dry_range :], breakers, *how)  # -0: all of it
    if params.repetition_penalty != 1:
        penalties.repeat(row, history[-params.repeat_last_n :], params.repetition_penalty)
    if params.counts_output:
        output = history[context.num_prompt :]
        penalties.count(row, output, params.frequency_penalty, params.presence_penalty)
    if len(params.bias_ids):
        row[params.bias_ids] += params.biases
