"""What an engine logs of its work: each step at DEBUG, throughput at INFO; what nobody reads costs nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .scheduler import Scheduled
from .stats import EngineStats

logger = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds between two lines on throughput


class _Moment(NamedTuple):
    seconds: float
    stats: EngineStats


class WorkLog:
    """Belongs to the engine's thread. `clock`: seconds."""

    def __init__(self, stats: Callable[[], EngineStats], clock: Callable[[], float] = time.perf_counter) -> None:
        self._stats = stats
        self._clock = clock
        self._last: _Moment | None = None  # since when throughput is counted
        self._step: tuple[list[int], list[int]] | None = None

    def rest(self) -> None:
        """There is no work: time that passes does not count."""
        self._last = None

    def begin(self, scheduled: Sequence[Scheduled]) -> None:
        if self._last is None and logger.isEnabledFor(logging.INFO):
            self._last = self._moment()
        if logger.isEnabledFor(logging.DEBUG):
            self._step = _lengths(scheduled)

    def end(self, seconds: float) -> None:
        """Of a step that took so long."""
        if self._step is not None:
            prompts, completions = self._step
            self._step = None
            logger.debug("%s - %.0fms", _described(prompts, completions), 1000 * seconds)
        if self._last is not None and self._clock() - self._last.seconds >= INTERVAL:
            before, self._last = self._last, self._moment()
            logger.info("%s", throughput(before.stats, self._last.stats, self._last.seconds - before.seconds))

    def _moment(self) -> _Moment:
        return _Moment(self._clock(), self._stats())


def throughput(before: EngineStats, after: EngineStats, seconds: float) -> str:
    asked = after.prefix_query_tokens - before.prefix_query_tokens
    found = after.prefix_hit_tokens - before.prefix_hit_tokens
    guessed = after.draft_tokens - before.draft_tokens
    parts = [
        f"{(after.generation_tokens - before.generation_tokens) / seconds:.1f} tokens/s",
        f"prompts {(after.prompt_tokens - before.prompt_tokens) / seconds:.1f} tokens/s",
        f"prefix cache hit rate {_percent(found, asked)}",
        f"{after.running} running",
        f"{after.waiting} waiting",
    ]
    if guessed:
        parts.append(f"guesses accepted {_percent(after.accepted_tokens - before.accepted_tokens, guessed)}")
    return "Throughput: " + ", ".join(parts)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def _lengths(scheduled: Sequence[Scheduled]) -> tuple[list[int], list[int]]:
    """Tokens that are read of each prompt, and the length of each text that goes on."""
    is_prompt = [item.request.num_computed < item.request.num_prompt for item in scheduled]
    prompts = [item.num_tokens for item, is_read in zip(scheduled, is_prompt, strict=True) if is_read]
    texts = [len(item.request.token_ids) for item, is_read in zip(scheduled, is_prompt, strict=True) if not is_read]
    return prompts, texts


def _described(prompts: Sequence[int], completions: Sequence[int]) -> str:
    """As mistral.rs spells it."""
    kinds = {"Prompt": prompts, "Completion": completions}
    return " ".join(f"{kind}[{', '.join(map(str, lengths))}]" for kind, lengths in kinds.items() if lengths)
