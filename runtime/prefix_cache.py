"""Slots are the prefix cache: a finished slot keeps its keys, values and token history until someone needs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .core import Runner
from .request import CacheKey, Request, Tokens

BLOCK = 64  # tokens: the grain of memory accounting, no less than a page of any head
NOTHING: Tokens = np.empty(0, np.int64)


@dataclass(slots=True, eq=False)
class Slot:
    """`history`: the tokens whose keys and values an idle slot holds; a running slot's are its request's."""

    index: int
    history: Tokens = field(default_factory=lambda: NOTHING)
    key: CacheKey = ((), False, "")
    request: Request | None = None
    last_use: int = 0
    num_rows: int = 0  # tokens of memory that it takes, in whole blocks

    def num_common(self, tokens: Tokens) -> int:
        """Length of the common prefix of `tokens` and what the slot has computed."""
        if self.request is None:
            return common_prefix(self.history, tokens)
        prompt = self.request.prompt_ids
        computed = min(self.request.num_computed, self.request.num_shareable)
        common = common_prefix(prompt[:computed], tokens)
        if common < len(prompt) or computed == common:
            return common
        return common + common_prefix(np.array(self.request.token_ids[common:computed]), tokens[common:])


class Match(NamedTuple):
    """A slot and how many tokens of a prompt it has."""

    slot: Slot
    num_tokens: int


@dataclass(slots=True)
class CacheStats:
    """Tokens asked for and tokens found, since the start."""

    query_tokens: int = 0
    hit_tokens: int = 0


class Held(NamedTuple):
    """Tokens of memory, in whole blocks, and slots: of requests that run, and of finished ones that are kept."""

    running_tokens: int
    kept_tokens: int
    kept_slots: int
    free_slots: int


class PrefixCache:
    """The table of slots. `max_bytes` bounds the memory of tokens written; without `reuse` nothing is remembered, and
    of finished requests at most `most_kept`, those used last.

    Requests run in the first `num_home` slots (None: in any), for a step costs more the wider the window of its slots
    is. Histories are copied home and away: that takes less than a step.
    """

    def __init__(
        self,
        runner: Runner,
        max_bytes: int | None,
        *,
        reuse: bool,
        num_home: int | None = None,
        most_kept: int | None = None,
    ) -> None:
        self.slots = [Slot(i) for i in range(runner.num_slots)]
        self.stats = CacheStats()
        self._runner = runner
        self._max_rows = None if max_bytes is None else max_bytes // runner.token_bytes
        self._reuse = reuse
        self._num_home = runner.num_slots if num_home is None else num_home
        self._most_kept = runner.num_slots if most_kept is None else most_kept
        self._num_rows = 0
        self._clock = 0

    @property
    def num_bytes(self) -> int:
        return self._num_rows * self._runner.token_bytes

    def held(self) -> Held:
        """Any thread may ask; while a slot changes hands it may be in none of the numbers, or in two."""
        idle = [slot for slot in self.slots if slot.request is None]
        num_kept = sum(len(slot.history) > 0 for slot in idle)
        kept_tokens = sum(slot.num_rows for slot in idle)
        return Held(self._num_running_rows(), kept_tokens, num_kept, len(idle) - num_kept)

    def fits(self, request: Request) -> bool:
        """Whether all tokens of a waiting request fit beside the running ones once idle slots are evicted."""
        if self._max_rows is None:
            return True
        return self._num_running_rows() + rows_for(len(request.token_ids)) <= self._max_rows

    def acquire(self, request: Request) -> None:
        """Gives the request the slot where least is left to compute, and says how much that spares."""
        tokens = request.prompt_ids if not request.num_output else np.array(request.token_ids)
        match = self._match(request, tokens) if self._reuse and not request.lacks_scores else None
        slot, num_tokens = self._place(match)
        slot.request, slot.key, slot.history = request, request.cache_key, NOTHING
        slot.last_use = self._tick()
        self._trim(slot, num_tokens)
        request.slot, request.num_computed = slot.index, num_tokens
        if not request.num_preemptions:
            request.num_cached = num_tokens
            self.stats.query_tokens += len(tokens)
            self.stats.hit_tokens += num_tokens

    def release(self, request: Request, *, forget: bool = False) -> None:
        """The slot becomes idle; `forget` what it holds when that may be wrong."""
        assert request.slot is not None, f"request {request.id} has no slot to release"
        slot = self.slots[request.slot]
        slot.request, request.slot = None, None
        slot.last_use = self._tick()
        if self._reuse and not forget:
            num_kept = min(request.num_computed, request.num_shareable)
            slot.history = np.array(request.token_ids[:num_kept], np.int64)
            self._keep_few()
        else:
            self._evict(slot)

    def reserve(self, slot_index: int, num_tokens: int) -> bool:
        """Makes room for that many tokens in a slot, evicting idle ones; False if that is not enough."""
        slot, rows = self.slots[slot_index], rows_for(num_tokens)
        grown = max(0, rows - slot.num_rows)
        while self._max_rows is not None and self._num_rows + grown > self._max_rows:
            idle = [s for s in self._idle() if s.num_rows]
            if not idle:
                return False
            self._evict(min(idle, key=lambda s: s.last_use))
        self._resize(slot, slot.num_rows + grown)
        return True

    def check_integrity(self) -> None:
        """Raises RuntimeError with the numbers that do not add up."""
        total = sum(slot.num_rows for slot in self.slots)
        if total != self._num_rows or (self._max_rows is not None and total > self._max_rows):
            raise RuntimeError(f"slots hold {total} rows, {self._num_rows} are accounted, {self._max_rows} are allowed")
        for slot in self.slots:
            held = len(slot.history) if slot.request is None else slot.request.num_computed
            if held > slot.num_rows:
                raise RuntimeError(f"slot {slot.index} holds {held} tokens in {slot.num_rows} rows")

    def _keep_few(self) -> None:
        kept = sorted((slot for slot in self._idle() if len(slot.history)), key=_by_age)
        for slot in kept[: max(0, len(kept) - self._most_kept)]:
            self._evict(slot)

    def _match(self, request: Request, tokens: Tokens) -> Match | None:
        """The longest common prefix that leaves a token to run; of equals the one that can be taken in place."""
        limit = min(len(tokens) - 1, request.num_shareable)
        matches = [
            Match(slot, min(slot.num_common(tokens), limit)) for slot in self.slots if slot.key == request.cache_key
        ]
        best = max(matches, key=lambda m: (m.num_tokens, _is_mostly_common(m), -m.slot.index), default=None)
        return best if best is not None and best.num_tokens else None

    def _place(self, match: Match | None) -> Match:
        if match is None:
            return Match(self._free_slot(), 0)
        if _is_mostly_common(match):
            return self._bring_home(match)
        target = self._copy(match)
        if target is not None:
            return Match(target, match.num_tokens)
        # No second slot, or no memory for it: the rest of the longer history has to go.
        return match if match.slot.request is None else Match(self._free_slot(), 0)

    def _copy(self, match: Match) -> Slot | None:
        """The slot that the common tokens were copied to, so that both histories live on."""
        source, num_tokens = match
        if not any(self._idle(source)) or not self._fits(num_tokens, source):
            return None
        source.last_use = self._tick()  # the last that reserve() evicts
        target = self._free_slot(source)
        self._fill(target, source, num_tokens)
        return target

    def _bring_home(self, match: Match) -> Match:
        """The same tokens in a home slot, if there is one to have and memory for two copies meanwhile."""
        slot, num_tokens = match
        if slot.index < self._num_home or not any(self._home(slot)) or not self._fits(num_tokens, slot):
            return match
        slot.last_use = self._tick()
        target = self._free_slot(slot)
        self._fill(target, slot, num_tokens)
        self._evict(slot)
        return Match(target, num_tokens)

    def _free_slot(self, keep: Slot | None = None) -> Slot:
        """The lowest that holds nothing, else the one idle for longest; a home slot, whose history then moves away."""
        oldest = min(self._idle(keep), key=_by_age)
        target = min(self._home(keep), key=_by_age, default=oldest)
        kept = [target] if keep is None else [target, keep]
        if target is oldest or not len(target.history) or not self._fits(len(target.history), *kept):
            return target
        last_use, target.last_use = target.last_use, self._tick()
        self._fill(oldest, target, len(target.history))
        oldest.history, oldest.key, oldest.last_use = target.history, target.key, last_use
        self._evict(target)
        return target

    def _fill(self, target: Slot, source: Slot, num_tokens: int) -> None:
        target.history = NOTHING
        self._trim(target, 0)
        self.reserve(target.index, num_tokens)
        self._runner.copy(source.index, target.index, num_tokens)

    def _fits(self, num_tokens: int, *kept: Slot) -> bool:
        """Whether that many more tokens fit if all idle slots but these are evicted."""
        if self._max_rows is None:
            return True
        rows = sum(slot.num_rows for slot in kept if slot.request is None)
        return self._num_running_rows() + rows + rows_for(num_tokens) <= self._max_rows

    def _num_running_rows(self) -> int:
        return sum(slot.num_rows for slot in self.slots if slot.request is not None)

    def _idle(self, keep: Slot | None = None) -> Iterator[Slot]:
        return (slot for slot in self.slots if slot.request is None and slot is not keep)

    def _home(self, keep: Slot | None) -> Iterator[Slot]:
        return (slot for slot in self._idle(keep) if slot.index < self._num_home)

    def _evict(self, slot: Slot) -> None:
        self._runner.free(slot.index)
        slot.history = NOTHING
        self._resize(slot, 0)

    def _trim(self, slot: Slot, num_tokens: int) -> None:
        """Gives back what a slot has beyond its first tokens, if memory is short at all."""
        if self._max_rows is not None and slot.num_rows > rows_for(num_tokens):
            self._runner.free(slot.index, num_tokens)
            self._resize(slot, rows_for(num_tokens) if num_tokens else 0)

    def _resize(self, slot: Slot, num_rows: int) -> None:
        self._num_rows += num_rows - slot.num_rows
        slot.num_rows = num_rows

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def rows_for(num_tokens: int) -> int:
    """Whole blocks for the tokens and the row past the end that attention may write."""
    return -(-(num_tokens + 1) // BLOCK) * BLOCK


def common_prefix(a: Tokens, b: Tokens) -> int:
    length = min(len(a), len(b))
    if not length or a[0] != b[0]:
        return 0
    differs = a[:length] != b[:length]
    first = int(differs.argmax())
    return first if differs[first] else length


def _is_mostly_common(match: Match) -> bool:
    slot = match.slot
    return slot.request is None and 2 * match.num_tokens >= len(slot.history)


def _by_age(slot: Slot) -> tuple[int, int]:
    return slot.last_use if len(slot.history) else 0, slot.index
