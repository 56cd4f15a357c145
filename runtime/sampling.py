"""What a request may ask of the sampler, checked when it is made; knows no logits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError

MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKEN_IDS = 256
MAX_LOGIT_BIAS = 1024
MAX_BAD_WORDS = 256
MAX_BAD_WORD_TOKENS = 64
MAX_ALLOWED_TOKEN_IDS = 32_768
MAX_BREAKERS = 64
MAX_BREAKER_LENGTH = 64
MAX_LOGPROBS = 20
MAX_ID = 2**31
GREEDY_BELOW = 1e-7  # temperatures under it choose the likeliest token

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop. Raises RequestError naming the parameter at fault.

    The order in which they work is that of `Sampler`. `frequency_penalty` and `presence_penalty` look at generated
    tokens, `repetition_penalty` at the last `repeat_last_n` and DRY at the last `dry_range` tokens of prompt and output
    (0: at all). Token ids are checked against a vocabulary, and `dry_sequence_breakers` made token ids, by `resolved`.
    """

    max_tokens: int | None = None  # None: to the end of the context
    min_tokens: int = 0  # until then no token ends the output, and no stop string does
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0 and -1: off
    top_p: float = 1.0
    min_p: float = 0.0  # relative to the largest probability, after temperature
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 64
    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_sequence_breakers: tuple[str | int, ...] = ("\n", ":", '"', "*")
    dry_range: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    allowed_token_ids: frozenset[int] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()  # sequences of tokens that the output must not contain
    seed: int | None = None  # None: a random one
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None  # alternatives told with each token; 0: its own probability alone
    # The same as arrays.
    bias_ids: Ids = field(init=False, repr=False, compare=False)
    biases: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    breaker_ids: Ids = field(init=False, repr=False, compare=False)  # of DRY, once all of them are token ids
    allowed_ids: Ids | None = field(init=False, repr=False, compare=False)
    banned_ids: Ids = field(init=False, repr=False, compare=False)  # bad words of one token

    def __post_init__(self) -> None:
        _check_integer("min_tokens", self.min_tokens, 0, 2**31)
        if self.max_tokens is not None:
            _check_integer("max_tokens", self.max_tokens, 1, 2**31)
            if self.min_tokens > self.max_tokens:
                message = f"min_tokens must be at most max_tokens ({self.max_tokens}), got {self.min_tokens}"
                raise RequestError(message, param="min_tokens")
        if self.seed is not None:
            _check_integer("seed", self.seed, -(2**63), 2**64 - 1)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        self._check_filters()
        self._check_penalties()
        self._check_stops()
        self._check_tokens()
        self._make_arrays()

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def counts_output(self) -> bool:
        return self.frequency_penalty != 0 or self.presence_penalty != 0

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1 or self.counts_output or self.dry_multiplier != 0

    @property
    def has_filters(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0 or self.typical_p < 1

    @property
    def edits_logits(self) -> bool:
        """Whether a row's logits change before temperature, by what is asked for here."""
        masks = self.allowed_token_ids is not None or bool(self.bad_words) or self.min_tokens > 0
        return masks or self.has_penalties or len(self.bias_ids) > 0

    def _check_filters(self) -> None:
        _check_integer("top_k", self.top_k, -1, 2**31)
        _check_number("temperature", self.temperature, 0, 100)
        _check_number("top_p", self.top_p, 0, 1, above=True)
        _check_number("min_p", self.min_p, 0, 1)
        _check_number("typical_p", self.typical_p, 0, 1, above=True)

    def _check_penalties(self) -> None:
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        _check_number("presence_penalty", self.presence_penalty, -2, 2)
        _check_integer("repeat_last_n", self.repeat_last_n, 0, 2**31)
        _check_number("dry_multiplier", self.dry_multiplier, 0, 100)
        _check_number("dry_base", self.dry_base, 1, 16)
        _check_integer("dry_allowed_length", self.dry_allowed_length, 1, 50)
        _check_integer("dry_range", self.dry_range, 0, 2**31)
        _check_count("dry_sequence_breakers", self.dry_sequence_breakers, MAX_BREAKERS)
        for breaker in self.dry_sequence_breakers:
            if isinstance(breaker, str):
                _check_text("dry_sequence_breakers", breaker, MAX_BREAKER_LENGTH)
            else:
                _check_integer("dry_sequence_breakers", breaker, 0, MAX_ID)

    def _check_stops(self) -> None:
        _check_count("stop", self.stop, MAX_STOPS)
        for text in self.stop:
            _check_text("stop", text, MAX_STOP_LENGTH)
        _check_ids("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS)

    def _check_tokens(self) -> None:
        _check_ids("logit_bias", self.logit_bias, MAX_LOGIT_BIAS)
        for bias in self.logit_bias.values():
            _check_number("logit_bias", bias, -100, 100)
        if self.allowed_token_ids is not None:
            _check_ids("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKEN_IDS, at_least=1)
        _check_count("bad_words", self.bad_words, MAX_BAD_WORDS)
        for word in self.bad_words:
            _check_ids("bad_words", word, MAX_BAD_WORD_TOKENS, at_least=1)

    def _make_arrays(self) -> None:
        biases = {token_id: bias for token_id, bias in self.logit_bias.items() if bias}
        allowed = None if self.allowed_token_ids is None else np.array(sorted(self.allowed_token_ids), np.int64)
        banned = [word[0] for word in self.bad_words if len(word) == 1]
        object.__setattr__(self, "bias_ids", np.fromiter(biases.keys(), np.int64, len(biases)))
        object.__setattr__(self, "biases", np.fromiter(biases.values(), np.float32, len(biases)))
        breakers = {breaker for breaker in self.dry_sequence_breakers if isinstance(breaker, int)}
        object.__setattr__(self, "breaker_ids", np.fromiter(breakers, np.int64, len(breakers)))
        object.__setattr__(self, "allowed_ids", allowed)
        object.__setattr__(self, "banned_ids", np.array(banned, np.int64))


def _check_integer(param: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise RequestError(f"{param} must be an integer from {low} to {high}, got {value!r:.64}", param=param)


def _check_number(param: str, value: Any, low: float, high: float, *, above: bool = False) -> None:
    """`above`: the lower bound itself is not allowed."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (above and value == low):
        range_ = f"above {low} and at most {high}" if above else f"from {low} to {high}"
        raise RequestError(f"{param} must be a number {range_}, got {value!r:.64}", param=param)


def _check_count(param: str, values: Collection[Any], most: int, *, at_least: int = 0) -> None:
    if not at_least <= len(values) <= most:
        raise RequestError(f"{param} must have {at_least} to {most} entries, got {len(values)}", param=param)


def _check_text(param: str, text: Any, longest: int) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= longest:
        got = f"{len(text)}" if isinstance(text, str) else f"{text!r:.64}"
        raise RequestError(f"each string of {param} must have 1 to {longest} characters, got {got}", param=param)


def _check_ids(param: str, token_ids: Collection[Any], most: int, *, at_least: int = 0) -> None:
    _check_count(param, token_ids, most, at_least=at_least)
    for token_id in token_ids:
        _check_integer(param, token_id, 0, MAX_ID)
