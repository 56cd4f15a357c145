"""Tokens that were guessed, checked and drawn follow the model's distribution, whoever guesses."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from chi_square import Array, chi_square, critical
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.core import Logits, Row
from mistralrs_onnx.runtime.engine import Engine, EngineOptions, Output
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.speculation import Drafter, PromptLookup, Speculation

VOCAB, LENGTH = 12, 2000
TABLE = (1.5 * np.random.default_rng(2).standard_normal((VOCAB, VOCAB))).astype(np.float32)
Choose = Callable[[Array], int]


class LastToken:
    """Says what follows from the last token alone, so that what follows each can be counted."""

    num_slots, capacity, vocab_size, token_bytes = 32, 4096, VOCAB, 1
    rope_switch = tgt_non_granular_index = None

    def run(self, rows: Sequence[Row]) -> Logits:
        return np.array([TABLE[token] for row in rows for token in list(row.token_ids)[-row.num_logits :]])

    def copy(self, source: int, target: int, num_tokens: int) -> None: ...

    def free(self, slot: int, keep: int = 0) -> None: ...


class Guesser:
    """Guesses by a rule from the logits, or at random."""

    seconds_per_token = 0.0

    def __init__(self, choose: Choose) -> None:
        self._choose = choose

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[list[int]]:
        return [self._guess(request.token_ids[-1], length) for request, length in zip(requests, lengths, strict=True)]

    def _guess(self, token: int, length: int) -> list[int]:
        guesses: list[int] = []
        for _ in range(length):
            token = self._choose(TABLE[token])
            guesses.append(token)
        return guesses

    def forget(self, request: Request) -> None: ...


def at_random(rng: np.random.Generator) -> Choose:
    return lambda row: int(rng.integers(len(row)))


DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "the likeliest": lambda: Guesser(lambda row: int(row.argmax())),
    "the least likely": lambda: Guesser(lambda row: int(row.argmin())),
    "at random": lambda: Guesser(at_random(np.random.default_rng(0))),
    "lookup": PromptLookup,
}
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 6, "top_p": 0.9},
    {"temperature": 1.6, "min_p": 0.1},
    {"temperature": 1.2, "typical_p": 0.7},
]


def expected(
    row: Logits, temperature: float, top_k: int = VOCAB, top_p: float = 1, min_p: float = 0, typical_p: float = 1
) -> Array:
    """The formula of `SamplingParams` once more, by full sorts."""
    p = np.exp(row.astype(np.float64) / temperature)
    p[np.argsort(-p)[top_k:]] = 0
    p = fewest(p / p.sum(), -p, top_p)
    p[p < min_p * p.max()] = 0
    p /= p.sum()
    surprise = -np.log(p, where=p > 0, out=np.full(VOCAB, np.inf))
    entropy = (p[p > 0] * surprise[p > 0]).sum()
    return fewest(p, np.abs(surprise - entropy), typical_p)


def fewest(p: Array, order_by: Array, share: float) -> Array:
    order = np.argsort(order_by, kind="stable")
    kept = p.copy()
    kept[order[np.cumsum(p[order]) - p[order] >= share]] = 0
    return kept / kept.sum()


def answer(engine: Engine, setting: dict[str, Any], count: int) -> list[list[int]]:
    boxes: list[queue.SimpleQueue[Output]] = [queue.SimpleQueue() for _ in range(count)]
    for seed, box in enumerate(boxes):
        engine.submit([0], SamplingParams(seed=seed, max_tokens=LENGTH, ignore_eos=True, **setting), box.put)
    return [tokens_in(box) for box in boxes]


def tokens_in(box: queue.SimpleQueue[Output]) -> list[int]:
    tokens: list[int] = []
    while True:
        output = box.get(timeout=120)
        assert output.error is None
        tokens += output.token_ids
        if output.finish_reason is not None:
            return tokens


def check(tokenizer: Tokenizer, drafter: Drafter, setting: dict[str, Any], num_answers: int) -> None:
    speculation = Speculation(drafter, most=4, adaptive=False)
    engine = Engine(LastToken(), tokenizer, frozenset(), 4096, EngineOptions(), speculation)
    engine.start()
    try:
        answers = answer(engine, setting, num_answers)
    finally:
        engine.close()
    assert engine.stats().draft_tokens > num_answers * LENGTH / 2
    followers = [pair for tokens in answers for pair in pairwise([0, *tokens])]
    assert len(followers) == num_answers * LENGTH
    for token in range(VOCAB):
        drawn = np.array([after for before, after in followers if before == token], np.int64)
        statistic, freedom = chi_square(drawn, len(drawn) * expected(TABLE[token], **setting))
        assert statistic <= critical(freedom)


@pytest.mark.parametrize("setting", SETTINGS[:2], ids=str)
@pytest.mark.parametrize("name", DRAFTERS)
def test_guesses_leave_the_distribution_alone(tokenizer: Tokenizer, name: str, setting: dict[str, Any]) -> None:
    check(tokenizer, DRAFTERS[name](), setting, 4)


@pytest.mark.full
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", DRAFTERS)
def test_also_in_100_000_draws(tokenizer: Tokenizer, name: str, setting: dict[str, Any]) -> None:
    check(tokenizer, DRAFTERS[name](), setting, 50)
