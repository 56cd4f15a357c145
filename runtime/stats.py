"""What an engine counts: plain numbers that its thread adds to, and snapshots of them for everybody else."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, get_args

from .core import FinishReason
from .errors import RequestError
from .histogram import FIRST_TOKEN, NEXT_TOKEN, REQUEST, STEP_TOKENS, TOKENS, Histogram
from .request import Request
from .scheduler import Scheduler
from .speculation import Speculation


@dataclass(slots=True)
class Counts:
    """Since the start. A request is one answer, of which a prompt may have several.

    Times of the histograms are in seconds. Each request that ended is in each of them that is about something which
    it lived to see.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    drafts: int = 0
    draft_tokens: int = 0  # guessed
    accepted_tokens: int = 0  # of them, those that were drawn
    run_seconds: float = 0.0  # inside Runner.run
    other_seconds: float = 0.0  # the rest of the steps
    rejected: int = 0  # requests for which the queue had no place
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(get_args(FinishReason), 0))
    failed: dict[str, int] = field(default_factory=dict)  # by the code of the error
    step_tokens: Histogram = field(default_factory=partial(Histogram, STEP_TOKENS))
    first_token: Histogram = field(default_factory=partial(Histogram, FIRST_TOKEN))
    next_token: Histogram = field(default_factory=partial(Histogram, NEXT_TOKEN))  # between two of a request
    mean_next_token: Histogram = field(default_factory=partial(Histogram, NEXT_TOKEN))  # of each request
    request_time: Histogram = field(default_factory=partial(Histogram, REQUEST))
    queue_time: Histogram = field(default_factory=partial(Histogram, REQUEST))
    prefill_time: Histogram = field(default_factory=partial(Histogram, REQUEST))
    decode_time: Histogram = field(default_factory=partial(Histogram, REQUEST))
    request_prompt_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))
    request_generation_tokens: Histogram = field(default_factory=partial(Histogram, TOKENS))

    def note_step(self, num_tokens: int) -> None:
        self.steps += 1
        self.step_tokens.observe(num_tokens)

    def note_token(self, request: Request, now: float) -> None:
        """`now`: of time.perf_counter."""
        if request.first_token_at is None:
            request.first_token_at = now
            self.prompt_tokens += request.num_prompt
            self.first_token.observe(now - request.submitted_at)
        else:
            self.next_token.observe(now - request.last_token_at)
        request.last_token_at = now
        self.generation_tokens += 1

    def note_end(self, request: Request, error: RequestError | None) -> None:
        """Of a request that knows how and when it finished."""
        assert request.finish_reason is not None
        assert request.finished_at is not None
        self.finished[request.finish_reason] += 1
        if error is not None:
            code = str(error.code)
            self.failed[code] = self.failed.get(code, 0) + 1
        self.request_time.observe(request.finished_at - request.submitted_at)
        self.request_prompt_tokens.observe(request.num_prompt)
        self.request_generation_tokens.observe(request.num_output)
        if request.scheduled_at is not None:
            self.queue_time.observe(request.scheduled_at - request.submitted_at)
            if request.first_token_at is not None:
                self._note_phases(request, request.scheduled_at, request.first_token_at)

    def _note_phases(self, request: Request, scheduled_at: float, first_token_at: float) -> None:
        seconds = request.last_token_at - first_token_at
        self.prefill_time.observe(first_token_at - scheduled_at)
        self.decode_time.observe(seconds)
        if request.num_output > 1:
            self.mean_next_token.observe(seconds / (request.num_output - 1))


@dataclass(slots=True)
class EngineStats(Counts):
    """Now, and counted since the start."""

    running: int = 0
    waiting: int = 0
    kv_bytes: int = 0  # of requests that run, and of those that are kept
    kv_limit: int = 0  # bytes; 0: no bound
    running_kv_tokens: int = 0  # as memory is accounted, in whole blocks
    kept_kv_tokens: int = 0  # of finished requests, which go when their memory is needed
    kept_slots: int = 0
    free_slots: int = 0

    def __add__(self, other: EngineStats) -> EngineStats:
        """Of two engines together."""
        return EngineStats(**{each.name: _sum(self, other, each.name) for each in fields(self)})

    def counted(self) -> EngineStats:
        """What remains of an engine that is closed."""
        return EngineStats(**copied(self))


def snapshot(counts: Counts, scheduler: Scheduler, speculation: Speculation | None, num_arriving: int) -> EngineStats:
    """Of an engine whose counts these are, while it runs. `num_arriving`: requests that its scheduler has not seen."""
    cache, limits = scheduler.cache, scheduler.limits
    found = EngineStats(**copied(counts))
    found.prefix_query_tokens, found.prefix_hit_tokens = cache.stats.query_tokens, cache.stats.hit_tokens
    found.preemptions = scheduler.num_preemptions
    found.running, found.waiting = len(scheduler.running), len(scheduler.waiting) + num_arriving
    if speculation is not None:
        found.drafts = speculation.num_drafts
        found.draft_tokens, found.accepted_tokens = speculation.num_guessed, speculation.num_stood
    if limits.kv_cache:
        found.kv_bytes, found.kv_limit = cache.num_bytes, limits.kv_mem or 0
        found.running_kv_tokens, found.kept_kv_tokens, found.kept_slots, found.free_slots = cache.held()
    return found


def copied(counts: Counts) -> dict[str, Any]:
    """By name of the field, as they are now; any thread may ask."""
    return {each.name: _sum(counts, NOTHING, each.name) for each in fields(Counts)}


def _sum(one: Counts, other: Counts, name: str) -> Any:
    own, added = getattr(one, name), getattr(other, name)
    if isinstance(own, dict):
        own, added = dict(own), dict(added)  # at once: its thread may be adding to it
        return {key: own.get(key, 0) + added.get(key, 0) for key in own | added}
    return own + added


NOTHING = Counts()
