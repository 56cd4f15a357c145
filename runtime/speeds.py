"""How long the answers to a prompt took, under the names that mistral.rs has for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Timed(Protocol):
    """A request, whose times are those of one clock, in seconds."""

    submitted_at: float
    first_token_at: float | None
    finished_at: float | None


class Speeds(NamedTuple):
    """Tokens per second, and seconds. A prompt's time begins when it was sent, so that waiting counts, and ends with
    the first token of its answer."""

    avg_tok_per_sec: float
    avg_prompt_tok_per_sec: float
    avg_compl_tok_per_sec: float
    total_time_sec: float
    total_prompt_time_sec: float
    total_completion_time_sec: float


def speeds(requests: Sequence[Timed], num_drawn: int, num_prompt: int, num_output: int) -> Speeds:
    """Of requests that ended, `num_drawn` for each prompt, of which the first reads it; tokens are those of all."""
    begun = min(request.submitted_at for request in requests)
    ended = max(request.finished_at or begun for request in requests)
    read = max(request.first_token_at or ended for request in requests[::num_drawn])
    return Speeds(
        avg_tok_per_sec=_rate(num_prompt + num_output, ended - begun),
        avg_prompt_tok_per_sec=_rate(num_prompt, read - begun),
        avg_compl_tok_per_sec=_rate(num_output, ended - read),
        total_time_sec=ended - begun,
        total_prompt_time_sec=read - begun,
        total_completion_time_sec=ended - read,
    )


def _rate(num_tokens: int, seconds: float) -> float:
    """No division by what is too short to be measured."""
    return num_tokens / seconds if seconds > 0 else 0.0
