"""Token ids are in the vocabulary, and breakers are token ids."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.resolve import breaker_id, resolved
from mistralrs_onnx.runtime.sampling import SamplingParams


@pytest.mark.parametrize(
    "asked",
    [
        {"logit_bias": {300: 1.0}},
        {"allowed_token_ids": frozenset({1, 300})},
        {"bad_words": ((1, 2), (3, 300))},
        {"stop_token_ids": frozenset({300})},
        {"dry_sequence_breakers": (300,)},
    ],
)
def test_tokens_that_the_vocabulary_lacks_are_refused(asked: dict[str, Any], tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="from 0 to 299, got 300") as caught:
        resolved(SamplingParams(**asked), tokenizer, 300)
    assert caught.value.param == next(iter(asked))
    assert resolved(SamplingParams(**asked), tokenizer, 301) == SamplingParams(**asked)


def test_breakers_are_the_last_tokens_of_their_texts(tokenizer: Tokenizer) -> None:
    params = SamplingParams(dry_multiplier=1.0, dry_sequence_breakers=("bc", "\n", 5), seed=3, logit_bias={7: 1.0})
    found = resolved(params, tokenizer, 300)
    newline = tokenizer.encode("\n").ids[-1]
    assert breaker_id(tokenizer, "bc") == tokenizer.token_to_id("abc")  # "a" and "bc" are one token
    assert found.dry_sequence_breakers == tuple(sorted([5, newline, tokenizer.token_to_id("abc")]))
    assert (found.seed, found.logit_bias, found.bias_ids.tolist()) == (3, {7: 1.0}, [7])


def test_without_dry_nothing_is_looked_up(tokenizer: Tokenizer) -> None:
    params = SamplingParams()
    assert resolved(params, tokenizer, 300) is params
