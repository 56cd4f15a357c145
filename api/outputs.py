"""What a request gets: its answers, as text and tokens, with how likely these were; the names are vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """Of one token at one place: the natural logarithm of the probability that the model itself gave it.

    `rank`: 1 is the likeliest; None for a token that was drawn and is not among the alternatives asked for.
    """

    logprob: float
    rank: int | None
    decoded_token: str


Logprobs = Mapping[int, Logprob]  # by token id: the token of a place, and the alternatives asked for


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer. `finish_reason`: None while it goes on; "abort" when it was cancelled.

    `stop_reason`: the stop string or stop token id that ended it. `cumulative_logprob` and `logprobs` (for each token):
    None unless they were asked for.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    cumulative_logprob: float | None = None
    logprobs: tuple[Logprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The answers to one prompt. `prompt`: None where it was given as tokens.

    `prompt_logprobs`: for each token of the prompt, None for the first; None as a whole unless they were asked for.
    `num_cached_tokens`: of the prompt, which an earlier request had read.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    prompt_logprobs: tuple[Logprobs | None, ...] | None
    outputs: tuple[CompletionOutput, ...]
    finished: bool
    adapter: str | None = None
    num_cached_tokens: int = 0
