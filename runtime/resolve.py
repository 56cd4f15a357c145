"""Fits what a request asks of the sampler to a vocabulary; knows no logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tokenizers import Tokenizer

from .errors import RequestError
from .sampling import SamplingParams


def resolved(params: SamplingParams, tokenizer: Tokenizer, vocab_size: int) -> SamplingParams:
    """The same with breakers as token ids. Raises RequestError for a token id that the vocabulary does not have."""
    for param, token_ids in _token_ids(params):
        wrong = max(token_ids, default=0)
        if wrong >= vocab_size:
            raise RequestError(f"{param} must have token ids from 0 to {vocab_size - 1}, got {wrong}", param=param)
    if not params.dry_multiplier:
        return params
    breakers = {breaker_id(tokenizer, b) if isinstance(b, str) else b for b in params.dry_sequence_breakers}
    return replace(params, dry_sequence_breakers=tuple(sorted(breakers)))


def breaker_id(tokenizer: Tokenizer, breaker: str) -> int:
    """The last token of the breaker after a letter, so that no space is put before it, as the makers of DRY have it."""
    token_ids: list[int] = tokenizer.encode("a" + breaker, add_special_tokens=False).ids
    if not token_ids:
        message = f"dry_sequence_breakers must be text that this model has tokens for, got {breaker!r}"
        raise RequestError(message, param="dry_sequence_breakers")
    return token_ids[-1]


def _token_ids(params: SamplingParams) -> Iterator[tuple[str, Iterable[int]]]:
    yield "logit_bias", params.logit_bias
    yield "allowed_token_ids", params.allowed_token_ids or ()
    yield "bad_words", (token_id for word in params.bad_words for token_id in word)
    yield "stop_token_ids", params.stop_token_ids
    yield "dry_sequence_breakers", (b for b in params.dry_sequence_breakers if isinstance(b, int))
