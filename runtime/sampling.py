"""What a request may ask of the sampler, checked when it is made; knows no logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .errors import RequestError

MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKEN_IDS = 256
GREEDY_BELOW = 1e-7  # temperatures under it choose the likeliest token


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop. Raises RequestError naming the parameter at fault.

    The order is penalties, temperature, top-k, top-p, min-p, draw. `frequency_penalty` and `presence_penalty` look
    at generated tokens, `repetition_penalty` at the last `repeat_last_n` tokens of prompt and output (0: at all).
    """

    max_tokens: int | None = None  # None: to the end of the context
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0 and -1: off
    top_p: float = 1.0
    min_p: float = 0.0  # relative to the largest probability, after temperature
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 64
    seed: int | None = None  # None: a random one
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _check_integer("max_tokens", self.max_tokens, 1, 2**31)
        if self.seed is not None:
            _check_integer("seed", self.seed, -(2**63), 2**64 - 1)
        _check_integer("top_k", self.top_k, -1, 2**31)
        _check_integer("repeat_last_n", self.repeat_last_n, 0, 2**31)
        _check_number("temperature", self.temperature, "from 0 to under 100", 0 <= self.temperature < 100)
        _check_number("top_p", self.top_p, "above 0 and at most 1", 0 < self.top_p <= 1)
        _check_number("min_p", self.min_p, "from 0 to 1", 0 <= self.min_p <= 1)
        penalty = self.repetition_penalty
        _check_number("repetition_penalty", penalty, "above 0 and at most 100", 0 < penalty <= 100)
        _check_number("frequency_penalty", self.frequency_penalty, "from -2 to 2", abs(self.frequency_penalty) <= 2)
        _check_number("presence_penalty", self.presence_penalty, "from -2 to 2", abs(self.presence_penalty) <= 2)
        self._check_stops()

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def counts_output(self) -> bool:
        return self.frequency_penalty != 0 or self.presence_penalty != 0

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1 or self.counts_output

    def _check_stops(self) -> None:
        if len(self.stop) > MAX_STOPS:
            raise RequestError(f"stop must have at most {MAX_STOPS} strings, got {len(self.stop)}", param="stop")
        for text in self.stop:
            if not 1 <= len(text) <= MAX_STOP_LENGTH:
                message = f"each stop string must have 1 to {MAX_STOP_LENGTH} characters, got {len(text)}"
                raise RequestError(message, param="stop")
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            message = f"stop_token_ids must have at most {MAX_STOP_TOKEN_IDS} ids, got {len(self.stop_token_ids)}"
            raise RequestError(message, param="stop_token_ids")
        for token_id in self.stop_token_ids:
            _check_integer("stop_token_ids", token_id, 0, 2**31)


def _check_integer(param: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise RequestError(f"{param} must be an integer from {low} to {high}, got {value!r:.64}", param=param)


def _check_number(param: str, value: Any, allowed: str, is_allowed: bool) -> None:
    if isinstance(value, bool) or not math.isfinite(value) or not is_allowed:
        raise RequestError(f"{param} must be a number {allowed}, got {value!r:.64}", param=param)
