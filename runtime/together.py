"""What is done to all rows of a step at once, on several threads, before tokens are drawn from them one by one.

Masks of grammars, penalties, and the passes that tell what is likely. Python does the same row by row where nothing was
compiled, and for the rows that are left out here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_float, c_int32, c_int64, c_void_p
from typing import Any, NamedTuple, Protocol

import numpy as np

from . import masks, penalties
from .core import Logits
from .leading import GROUP, Groups, Ids, Known
from .logprobs import Overview, Top
from .rows import Near, address, compiled_rows
from .sampling import MAX_LOGPROBS, SamplingParams
from .sums import BLOCK


class Context(Protocol):
    """What the choice of a row's token depends on beside its logits; a Request is one."""

    @property
    def params(self) -> SamplingParams: ...
    @property
    def seed(self) -> int: ...
    @property
    def num_prompt(self) -> int: ...
    @property
    def history(self) -> Ids:
        """Prompt and output so far."""

    @property
    def mask(self) -> masks.Bitmask | None:
        """Of a grammar: which tokens it takes next."""


class Looked(NamedTuple):
    """A row after masks and penalties, and its largest logit.

    `token_ids`: its tokens, if it has not all of them. `groups`: None for a greedy one, of which `best` is the place of
    the largest. `seen`: of the logits as they came, where log probabilities are asked for.
    """

    row: Logits
    highest: float | np.float32
    token_ids: Ids | None = None
    groups: Groups | None = None
    best: int = -1
    seen: Overview | None = None


class _Job(ctypes.Structure):
    """As `native/rows.cpp` has it: addresses of arrays, and of which parts; 0 leaves a thing out."""

    _fields_ = (
        *((name, c_void_p) for name in ("logits", "edited", "bitmask", "block_highest", "maxima")),
        *(("num_top", c_int64), ("top", c_void_p), ("top_logits", c_void_p)),
        *((name, c_void_p) for name in ("history", "breakers", "bias_ids", "losses", "biases")),
        *((name, c_int64) for name in ("num_history", "output_start", "repeat_start", "dry_start")),
        *((name, c_int64) for name in ("num_breakers", "dry_at_least", "num_losses", "num_biases")),
        *((name, c_float) for name in ("repetition", "frequency", "presence", "temperature")),
        ("most", c_int64),
        *((name, c_void_p) for name in ("places", "weights", "ends", "all_weights", "weight_sums")),
        *((name, c_double) for name in ("normalizer", "rest")),
        *((name, c_int64) for name in ("best", "num_near")),
        *((name, c_float) for name in ("highest", "least")),
        ("has_failed", c_int32),
    )


class Together:
    """Holds arrays from step to step, and nothing that means anything between two of them."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._arrays = _Arrays(0, 0)

    def look_at(self, logits: Logits, contexts: Sequence[Context]) -> list[Looked | None]:
        """At rows (R, vocab), which it leaves as they are; None for those that are left out.

        What it returns is valid until the next call. Raises IndexError for tokens beyond the vocabulary.
        """
        looked: list[Looked | None] = [None] * len(contexts)
        compiled, vocab = compiled_rows(), logits.shape[1]
        if compiled is None or not vocab or logits.dtype != np.float32 or not logits.flags.c_contiguous:
            return looked
        chosen = [i for i, context in enumerate(contexts) if _is_for_all(context, vocab)]
        if len(chosen) > self._arrays.num_rows or vocab != self._arrays.vocab:
            self._arrays = _Arrays(len(chosen), vocab)
        jobs, kept = (_Job * len(chosen))(), []
        for at, i in enumerate(chosen):
            jobs[at].logits = address(logits[i])
            kept.append(self._arrays.provide(jobs[at], at, contexts[i]))
        compiled.together(jobs, vocab, self._num_threads)
        for at, i in enumerate(chosen):
            looked[i] = self._arrays.found(jobs[at], at, logits[i], contexts[i])
        return looked


class _Arrays:
    """Of so many rows, to write to."""

    def __init__(self, num_rows: int, vocab: int) -> None:
        self.num_rows, self.vocab = num_rows, vocab
        self._maxima = np.empty((num_rows, sum(divmod(vocab, GROUP))), np.float32)
        self._block_highest = np.empty((num_rows, -(-vocab // BLOCK)), np.float32)
        self._top = np.empty((num_rows, MAX_LOGPROBS), np.int64)
        self._top_logits = np.empty((num_rows, MAX_LOGPROBS), np.float32)
        self._edited = np.empty((0, vocab), np.float32)
        most = vocab // 8  # as near.near_tokens
        self._places = np.empty((num_rows, most), np.int64)
        self._weights = np.empty((num_rows, most), np.float32)
        self._ends = np.empty((num_rows, most))
        self._all_weights = np.empty((num_rows, vocab), np.float32)
        self._weight_sums = np.empty((num_rows, -(-vocab // BLOCK)), np.float32)

    def provide(self, job: _Job, at: int, context: Context) -> list[Any]:
        """Says what the row is to have done; returns what has to live until it is."""
        params, kept = context.params, list[Any]()
        job.maxima = address(self._maxima[at])
        job.temperature = 0.0 if params.is_greedy else params.temperature
        job.repetition = 1.0
        if params.logprobs is not None:
            job.block_highest, job.num_top = address(self._block_highest[at]), min(params.logprobs, self.vocab)
            job.top, job.top_logits = address(self._top[at]), address(self._top_logits[at])
        if context.mask is not None:
            job.bitmask = address(context.mask)
        if context.mask is not None or params.edits_logits:
            if not len(self._edited):
                self._edited = np.empty((self.num_rows, self.vocab), np.float32)
            job.edited = address(self._edited[at])
            kept = _penalize(job, context)
        if _looks_near(params, self.vocab):
            job.most = self._places.shape[1]
            job.places, job.weights, job.ends = map(address, (self._places[at], self._weights[at], self._ends[at]))
            if params.min_p == 0:
                job.all_weights, job.weight_sums = address(self._all_weights[at]), address(self._weight_sums[at])
        return kept

    def found(self, job: _Job, at: int, row: Logits, context: Context) -> Looked:
        if job.has_failed:
            raise IndexError(f"a token of a request is beyond the vocabulary of {self.vocab}")
        seen = None
        if job.block_highest:
            top = Top(self._top[at, : job.num_top].tolist(), self._top_logits[at, : job.num_top].tolist())
            seen = Overview(job.normalizer, self._block_highest[at], top=top)
        edited = self._edited[at] if job.edited else row
        if context.params.is_greedy:
            return Looked(edited, job.highest, best=job.best, seen=seen)
        near, weights = None, None
        if job.num_near > 0:
            of_row = at, slice(job.num_near)
            near = Near(job.least, self._places[of_row], self._weights[of_row], self._ends[of_row], job.rest)
        elif job.num_near < 0 and job.all_weights:
            weights = self._all_weights[at], self._weight_sums[at]
        groups = Groups(edited, Known(self._maxima[at], job.highest, near, weights))
        return Looked(edited, job.highest, groups=groups, seen=seen)


def _is_for_all(context: Context, vocab: int) -> bool:
    """Whether the row has none of the masks that a request itself may have, nor a grammar's that leaves few tokens."""
    params = context.params
    if params.allowed_ids is not None or params.bad_words:
        return False
    if len(context.history) - context.num_prompt < params.min_tokens:
        return False
    return context.mask is None or not masks.leaves_few(context.mask, vocab)


def _looks_near(params: SamplingParams, vocab: int) -> bool:
    """Whether a row is drawn from its likely tokens: other filters find out themselves what they keep."""
    return not params.is_greedy and not 0 < params.top_k < vocab and (params.top_p < 1 or params.min_p == 0)


def _penalize(job: _Job, context: Context) -> list[Any]:
    params, history = context.params, context.history
    kept: list[Any] = [history]
    job.history, job.num_history = address(history), len(history)
    job.output_start = context.num_prompt
    if params.dry_multiplier:
        losses = penalties.losses(params.dry_multiplier, params.dry_base, params.dry_allowed_length)
        job.losses, job.num_losses, job.dry_at_least = address(losses), len(losses), params.dry_allowed_length
        kept.append(losses)
        job.breakers, job.num_breakers = address(params.breaker_ids), len(params.breaker_ids)
        job.dry_start = _start(history, params.dry_range)
    job.repetition, job.repeat_start = params.repetition_penalty, _start(history, params.repeat_last_n)
    job.frequency, job.presence = params.frequency_penalty, params.presence_penalty
    if len(params.bias_ids):
        job.bias_ids, job.biases = address(params.bias_ids), address(params.biases)
        job.num_biases = len(params.bias_ids)
    return kept


def _start(history: Ids, last: int) -> int:
    """Where the last so many begin; 0 means all of them."""
    return max(0, len(history) - last) if last else 0
