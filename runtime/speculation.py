"""Guessing several tokens at once: who guesses, and how many guesses are worth their time.

A draft is checked in one step of the model, which gives the logits behind each of its tokens (Leviathan et al., 2023).
The sampler then draws position by position as it would without a draft, and goes on while it draws what was guessed.
So the tokens are those of plain decoding, whatever the sampler does, and each guess stands with the probability that
the model gives it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .request import Request

logger = logging.getLogger(__name__)

NGRAMS = (4, 3, 2)  # tokens that must have come before, the longest first
MAX_DRAFT = 16
PROBE_EVERY = 32  # steps without a draft after which one token is tried
PROBE_AT_LEAST = 256  # the same, after some that fell and where guesses cost time: such drafters read on for each
TOO_DEAR = 0.75  # of a step that draws a token: what a guess may cost, checked, to be tried


class Drafter(Protocol):
    """Guesses what follows requests. Belongs to the engine's thread."""

    seconds_per_token: float  # of a guess, 0 where it costs next to nothing

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[list[int]]:
        """For each request up to so many tokens that may follow its last one; fewer, or none, where it knows none."""

    def forget(self, request: Request) -> None:
        """The request has ended, whether or not anything was guessed for it."""


class PromptLookup:
    """What followed the last tokens when they came before, in prompt or output (Saxena, 2023)."""

    seconds_per_token = 0.0

    def __init__(self) -> None:
        self._histories: dict[int, _History] = {}

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[list[int]]:
        found = []
        for request, length in zip(requests, lengths, strict=True):
            history = self._histories.setdefault(request.id, _History())
            history.read(request.token_ids)
            found.append(history.continuation(request.token_ids, length))
        return found

    def forget(self, request: Request) -> None:
        self._histories.pop(request.id, None)


class _History:
    """Where each sequence of a few tokens was seen last, the one at the end excepted."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}  # the place behind it
        self._num_read = 0

    def read(self, tokens: Sequence[int]) -> None:
        for end in range(self._num_read, len(tokens)):
            for n in NGRAMS:
                if n <= end:
                    self._ends[tuple(tokens[end - n : end])] = end
        self._num_read = len(tokens)

    def continuation(self, tokens: Sequence[int], length: int) -> list[int]:
        """A text that repeats itself up to its end is taken to go on doing so."""
        for n in NGRAMS:
            start = self._ends.get(tuple(tokens[-n:])) if len(tokens) > n else None
            if start is not None:
                period = len(tokens) - start
                return [tokens[start + i % period] for i in range(length)]
        return []


@dataclass(slots=True)
class _Luck:
    """Of one request: guesses that stood and that fell, the older ones counting less; steps without a draft, and
    after how many the next token is tried if that costs time.
    """

    stood: float = 1.0
    fell: float = 0.5
    idle: int = 0
    patience: int = PROBE_EVERY

    @property
    def rate(self) -> float:
        return self.stood / (self.stood + self.fell)


@dataclass(slots=True)
class Pace:
    """How many tokens to guess: as many as make a step bring more tokens in a second.

    A step of n tokens takes about fixed + n · each seconds, found out from steps that only decode.
    """

    most: int = MAX_DRAFT
    each: float = 0.1  # seconds, in any unit until steps were timed
    fixed: float = 1.0
    _luck: dict[int, _Luck] = field(default_factory=dict)
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)  # 1, n, n², t, n · t over steps
    _least: int = 1 << 30
    _largest: int = 0

    def lengths(self, requests: Sequence[Request], seconds_per_token: float) -> list[int]:
        """For requests that decode together. A guess at depth d stands with chance rate ** d."""
        if seconds_per_token and not self._sums[0]:
            return [0] * len(requests)  # no step was timed, with which to compare it
        cost = self.each + seconds_per_token
        threshold = cost * len(requests) / (self.fixed + self.each * len(requests))
        if seconds_per_token and threshold >= TOO_DEAR:  # even guesses that always stand would bring next to nothing
            return [0] * len(requests)
        lucks = [self._luck.setdefault(request.id, _Luck()) for request in requests]
        return [self._length(each, threshold, each.patience if seconds_per_token else PROBE_EVERY) for each in lucks]

    def _length(self, luck: _Luck, threshold: float, patience: int) -> int:
        count = min(self.most, int(math.log(threshold) / math.log(luck.rate)))
        if count:
            return count
        luck.idle += 1
        return int(luck.idle % patience == 0)

    def note_draft(self, request: Request, num_guessed: int, num_stood: int) -> None:
        luck = self._luck.setdefault(request.id, _Luck())
        decay = 0.95**num_guessed
        luck.stood = luck.stood * decay + num_stood
        luck.fell = luck.fell * decay + (num_stood < num_guessed)
        if not luck.stood:
            luck.stood = 1e-6
        luck.idle = 0
        luck.patience = PROBE_EVERY if num_stood else min(2 * luck.patience, PROBE_AT_LEAST)

    def note_step(self, num_tokens: int, seconds: float) -> None:
        """Least squares over the steps of late."""
        for i, value in enumerate((1, num_tokens, num_tokens**2, seconds, num_tokens * seconds)):
            self._sums[i] = 0.98 * self._sums[i] + value
        self._least, self._largest = min(self._least, num_tokens), max(self._largest, num_tokens)
        count, n, nn, t, nt = self._sums
        spread = count * nn - n * n
        if self._largest > self._least and spread > 1e-3 * nn:
            each = (count * nt - n * t) / spread
            fixed = (t - each * n) / count
            if each > 0 and fixed > 0:
                self.each, self.fixed = each, fixed
        elif count:  # steps of one size: the ratio of before, at this size's time
            scale = t / (count * self.fixed + n * self.each)
            self.each, self.fixed = self.each * scale, self.fixed * scale

    def forget(self, request: Request) -> None:
        self._luck.pop(request.id, None)


class Speculation:
    """A drafter, and what has come of its drafts."""

    def __init__(self, drafter: Drafter, most: int = MAX_DRAFT, *, adaptive: bool = True) -> None:
        self._drafter = drafter
        self._pace = Pace(most)
        self._most = most
        self._adaptive = adaptive
        self.num_drafts = 0
        self.num_guessed = 0
        self.num_stood = 0
        self._has_failed = False

    def draft(self, requests: Sequence[Request]) -> None:
        """Leaves drafts with requests that are about to decode."""
        if not requests or self._has_failed:
            return
        try:
            self._draft(requests)
        except Exception:
            self._has_failed = True
            logger.exception("a drafter failed: no more tokens are guessed")

    def _draft(self, requests: Sequence[Request]) -> None:
        lengths = [self._most] * len(requests)
        if self._adaptive:
            lengths = self._pace.lengths(requests, self._drafter.seconds_per_token)
        lengths = [
            max(0, min(length, request.max_len - len(request.token_ids) - 1))
            for request, length in zip(requests, lengths, strict=True)
        ]
        for request, tokens in zip(requests, self._drafter.propose(requests, lengths), strict=True):
            request.draft = tokens

    def note(self, request: Request, num_guessed: int, num_stood: int) -> None:
        self.num_drafts += 1
        self.num_guessed += num_guessed
        self.num_stood += num_stood
        self._pace.note_draft(request, num_guessed, num_stood)

    def note_step(self, num_tokens: int, seconds: float) -> None:
        self._pace.note_step(num_tokens, seconds)

    def forget(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._drafter.forget(request)
            self._pace.forget(request)
