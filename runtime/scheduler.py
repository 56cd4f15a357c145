"""Decides which tokens of which requests run in the next step; knows slots and memory, no logits and no text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .core import Row, Runner
from .errors import RoomError
from .prefix_cache import PrefixCache, rows_for
from .request import Request

SCORED = 64  # tokens of a scored prompt in a step


@dataclass(frozen=True, slots=True)
class Limits:
    """`prefill_chunk`: prompt tokens of a step. `kv_mem`: bytes of keys and values, None for no bound.

    Without `kv_cache` the runner keeps none between steps, so that `kv_mem` bounds those of one request.
    """

    max_seqs: int
    max_model_len: int
    prefill_chunk: int = 512
    kv_mem: int | None = None
    prefix_cache: bool = True
    prefix_cache_n: int | None = None  # the most finished requests that are kept; None: as many as there are slots
    kv_cache: bool = True


class Scheduled(NamedTuple):
    """The next `num_tokens` uncomputed tokens of a request; `is_drawn`: they are all, so a new one is drawn.

    `draft`: guesses of what follows, which run behind them.
    """

    request: Request
    num_tokens: int
    is_drawn: bool
    draft: Sequence[int] = ()

    @property
    def scores_prompt(self) -> bool:
        """Whether logits of all its tokens are wanted, since they are of a prompt that is scored."""
        return self.request.prompt_logprobs is not None and self.request.num_computed < self.request.num_prompt

    @property
    def num_logits(self) -> int:
        if self.scores_prompt:
            return self.num_tokens
        return 1 + len(self.draft) if self.is_drawn else 0

    @property
    def row(self) -> Row:
        request = self.request
        assert request.slot is not None, f"request {request.id} runs without a slot"
        tokens = [*request.next_tokens(self.num_tokens), *self.draft]
        own = request.is_long, request.adapter, request.last_granular
        return Row(request.slot, request.num_computed, tokens, self.num_logits, *own)


class Scheduler:
    """First come, first served. There is no prefill or decode phase: a request has tokens that are not computed.

    Each step runs the last token of every request that has one left, and prompt tokens up to the budget, so a long
    prompt delays the others by one chunk at most. When memory ends, the latest arrival waits again.
    `running` and `waiting` are in order of arrival, and all that run came before all that wait.
    """

    def __init__(self, runner: Runner, limits: Limits) -> None:
        _check_limits(runner, limits)
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.cache = PrefixCache(
            runner,
            limits.kv_mem if limits.kv_cache else None,
            reuse=limits.prefix_cache,
            num_home=limits.max_seqs,
            most_kept=limits.prefix_cache_n,
        )
        self.num_preemptions = 0
        self._num_added = 0
        self.limits = limits

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, request: Request) -> None:
        request.order = self._num_added
        self._num_added += 1
        self.waiting.append(request)

    def schedule(self) -> list[Scheduled]:
        """What to run now; not empty while there is work."""
        scheduled: list[Scheduled] = []
        budget, i = self.limits.prefill_chunk, 0
        while i < len(self.running):  # it shortens from its end
            request = self.running[i]
            is_decode = request.num_uncomputed == 1
            num_tokens = 1 if is_decode else min(_chunk(request), budget)
            draft = self._take_draft(request)
            if num_tokens and (draft or self._reserve(request, num_tokens)):
                scheduled.append(_scheduled(request, num_tokens, draft))
                budget -= 0 if is_decode else num_tokens
            i += 1
        while budget and self._can_admit():
            request = self._admit()
            num_tokens = min(_chunk(request), budget)
            if not self._reserve(request, num_tokens):
                break
            scheduled.append(_scheduled(request, num_tokens))
            budget -= num_tokens
        return scheduled

    def commit(self, scheduled: Iterable[Scheduled], token_ids: Iterable[int]) -> None:
        """What ran is computed; `token_ids` are the drawn ones in order, negative where a draw failed."""
        drawn = iter(token_ids)
        for request, num_tokens, is_drawn, _ in scheduled:
            request.num_computed += num_tokens
            if is_drawn and (token_id := next(drawn)) >= 0:
                request.append(token_id)

    def accept(self, request: Request, token_id: int) -> None:
        """A guess was what was drawn, so it is computed; `token_id` is drawn behind it, negative where that failed."""
        request.num_computed += 1
        if token_id >= 0:
            request.append(token_id)

    def remove(self, request: Request, *, forget: bool = False) -> None:
        """Ends a request, running or waiting; `forget`: what its slot holds may be wrong."""
        if request.slot is None:
            self.waiting.remove(request)
        else:
            self.running.remove(request)
            self.cache.release(request, forget=forget)

    def check_integrity(self) -> None:
        """Raises RuntimeError with what does not fit together."""
        ids = [request.order for request in (*self.running, *self.waiting)]
        if ids != sorted(ids) or len(self.running) > self.limits.max_seqs:
            raise RuntimeError(f"requests out of order or more than {self.limits.max_seqs} running: {ids}")
        owners = {slot.request.id: slot.index for slot in self.cache.slots if slot.request is not None}
        slots = {request.id: request.slot for request in self.running}
        if owners != slots:
            raise RuntimeError(f"slots say they run {owners}, requests say {slots}")
        held = [request.id for request in self.waiting if request.slot is not None or request.num_computed]
        if held:
            raise RuntimeError(f"requests {held} wait and hold a slot")
        self.cache.check_integrity()

    def _can_admit(self) -> bool:
        if not self.waiting or len(self.running) == self.limits.max_seqs:
            return False
        return not self.running or self.cache.fits(self.waiting[0])

    def _admit(self) -> Request:
        request = self.waiting.popleft()
        if request.scheduled_at is None:
            request.scheduled_at = time.perf_counter()
        self.cache.acquire(request)
        self.running.append(request)
        return request

    def _reserve(self, request: Request, num_tokens: int) -> bool:
        """Makes room, at the cost of later arrivals; False if the request itself had to go."""
        assert request.slot is not None, f"request {request.id} runs without a slot"
        while not self.cache.reserve(request.slot, request.num_computed + num_tokens):
            latest = self.running[-1]
            self._preempt(latest)
            if latest is request:
                return False
        return True

    def _take_draft(self, request: Request) -> Sequence[int]:
        """For guesses nobody else's memory is taken."""
        draft, request.draft = request.draft, ()
        if not draft or request.num_uncomputed != 1 or request.slot is None:
            return ()
        return draft if self.cache.reserve(request.slot, request.num_computed + 1 + len(draft)) else ()

    def _preempt(self, request: Request) -> None:
        """Its tokens will be computed again; what was drawn stays."""
        self.running.remove(request)
        self.cache.release(request)
        request.num_computed = 0
        request.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(request)


def _scheduled(request: Request, num_tokens: int, draft: Sequence[int] = ()) -> Scheduled:
    return Scheduled(request, num_tokens, num_tokens == request.num_uncomputed, draft)


def _chunk(request: Request) -> int:
    """Of a prompt that is scored only a few tokens at a time: each brings a row of logits."""
    if request.prompt_logprobs is None or request.num_computed >= request.num_prompt:
        return request.num_uncomputed
    return min(request.num_uncomputed, SCORED)


def _check_limits(runner: Runner, limits: Limits) -> None:
    if min(limits.max_seqs, limits.max_model_len, limits.prefill_chunk) < 1:
        raise ValueError(f"max_seqs, max_model_len and prefill_chunk must be at least 1, got {limits}")
    if limits.max_seqs > runner.num_slots:
        raise ValueError(f"max_seqs {limits.max_seqs} needs as many slots, the runner has {runner.num_slots}")
    if limits.max_model_len > runner.capacity:
        raise ValueError(f"max_model_len {limits.max_model_len} exceeds a slot's {runner.capacity} tokens: lower it")
    needed = rows_for(limits.max_model_len) * runner.token_bytes
    if limits.kv_mem is not None and limits.kv_mem < needed:
        raise RoomError(
            f"a request of max_model_len {limits.max_model_len} needs {needed:,} bytes of KV cache, "
            f"kv_mem is {limits.kv_mem:,}: raise kv_mem or lower max_model_len"
        )
