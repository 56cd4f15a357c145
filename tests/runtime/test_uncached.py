"""Without a KV cache every text is computed from its start, and no token changes."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.draft_model import DraftModel
from mistralrs_onnx.runtime.engine import Engine, EngineOptions, Output
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.speculation import PromptLookup, Speculation
from mistralrs_onnx.runtime.uncached import Uncached

PROMPTS = [[1], [7] * 90, [*range(40)], [3, 4, 5] * 20]
PARAMS = [SamplingParams(temperature=0.8, seed=i, max_tokens=12, ignore_eos=True) for i in range(len(PROMPTS))]


def answers(engine: Engine, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Of requests that run together."""
    boxes: list[queue.SimpleQueue[Output]] = [queue.SimpleQueue() for _ in prompts]
    for prompt, params, box in zip(prompts, PARAMS, boxes, strict=True):
        engine.submit(prompt, params, box.put)
    return [_read(box) for box in boxes]


def _read(box: queue.SimpleQueue[Output]) -> tuple[int, ...]:
    found: list[int] = []
    while True:
        output = box.get(timeout=60)
        assert output.error is None
        found += output.token_ids
        if output.finish_reason is not None:
            return tuple(found)


def speculations(fake: Any) -> dict[str, Speculation | None]:
    draft = Uncached(fake(num_slots=2), num_slots=8, max_chunk=16)
    return {
        "plain": None,
        "lookup": Speculation(PromptLookup(), 4, adaptive=False),
        "draft": Speculation(DraftModel(draft, 300), 4, adaptive=False),
    }


@pytest.mark.parametrize("kind", ["plain", "lookup", "draft"])
def test_tokens_are_those_with_a_cache(
    fake: Any, tokenizer: Tokenizer, plain_loop: Callable[..., Any], kind: str
) -> None:
    runner, speculation = fake(num_slots=2), speculations(fake)[kind]
    options = EngineOptions(max_seqs=3, prefill_chunk=16, kv_cache=False)
    engine = Engine(runner, tokenizer, frozenset(), 4096, options, speculation)
    engine.start()
    found = answers(engine, PROMPTS)
    stats = engine.stats()
    engine.close()
    assert found == [plain_loop(prompt, 12, params) for prompt, params in zip(PROMPTS, PARAMS, strict=True)]
    assert (stats.prefix_hit_tokens, stats.kv_bytes) == (0, 0)
    assert (stats.accepted_tokens > 0) == (kind == "draft")
    assert (runner.held < 0).all()  # nothing is kept, and nothing beside one slot was used
    assert {row.slot for rows in runner.steps for row in rows} == {0}


def test_each_step_reads_the_whole_text(fake: Any) -> None:
    inner = fake(num_slots=1)
    runner = Uncached(inner, num_slots=2, max_chunk=4)
    runner.run([Row(1, 0, [1, 2, 3], 0)])
    assert not inner.steps  # nobody asked for logits
    runner.run([Row(1, 3, [4, 5, 6], 1), Row(0, 0, [9], 1)])
    runner.run([Row(1, 6, [7], 1)])
    rows = [(row.start, list(row.token_ids), row.num_logits) for step in inner.steps for row in step]
    assert rows == [
        (0, [1, 2], 0),
        (2, [3, 4, 5, 6], 1),
        (0, [9], 1),
        (0, [1, 2, 3], 0),
        (3, [4, 5, 6, 7], 1),
    ]


def test_guesses_that_fell_are_no_part_of_the_text(fake: Any, logits_of: Callable[..., Any]) -> None:
    runner = Uncached(fake(num_slots=1), num_slots=1, max_chunk=2)
    found = runner.run([Row(0, 0, [1, 2, 3, 4, 5], 5)])
    assert [row.tolist() for row in found] == [logits_of([1, 2, 3, 4, 5][:n]).tolist() for n in range(1, 6)]
    assert runner.run([Row(0, 2, [8], 1)])[0].tolist() == logits_of([1, 2, 8]).tolist()


def test_memory_is_that_of_one_text(fake: Any, tokenizer: Tokenizer, plain_loop: Callable[..., Any]) -> None:
    """Three requests of 100 tokens would not fit beside each other."""
    options = EngineOptions(max_seqs=3, max_model_len=120, kv_mem=128 * 100, kv_cache=False)
    engine = Engine(fake(num_slots=2), tokenizer, frozenset(), 4096, options)
    engine.start()
    found = answers(engine, [[7] * 90] * 4)
    assert engine.stats().preemptions == 0
    engine.close()
    assert found == [plain_loop([7] * 90, 12, params) for params in PARAMS]


@pytest.mark.parametrize("option", ["kv_cache", "prefix_cache"])
def test_conversations_cannot_be_kept_without(fake: Any, tokenizer: Tokenizer, option: str) -> None:
    with pytest.raises(ValueError, match="needs prefix_cache and kv_cache"):
        Engine(fake(), tokenizer, frozenset(), 4096, EngineOptions(prefix_cache_n=3, **{option: False}))
