"""What an engine counts is what it did, request by request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.answers import Output
from mistralrs_onnx.runtime.engine import Engine, EngineOptions
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.prefix_cache import BLOCK
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.speculation import PromptLookup, Speculation
from mistralrs_onnx.runtime.stats import EngineStats

Start = Callable[..., Engine]


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)


@pytest.fixture
def start(tokenizer: Tokenizer) -> Iterator[Start]:
    engines: list[Engine] = []

    def start(runner: Any, speculation: Speculation | None = None, **options: Any) -> Engine:
        engines.append(Engine(runner, tokenizer, frozenset(), 4096, EngineOptions(**options), speculation))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def say(engine: Engine, prompt: list[int], max_tokens: int) -> None:
    assert list(engine.generate(prompt, greedy(max_tokens)))[-1].finish_reason == "length"


class Ended:
    """A sink that notes how its request ended."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._last: Output | None = None

    def __call__(self, output: Output) -> None:
        if output.finish_reason is not None:
            self._last = output
            self._event.set()

    def wait(self) -> Output:
        assert self._event.wait(60)
        assert self._last is not None
        return self._last


def test_tokens_steps_and_requests_are_counted_once(fake: Any, start: Start) -> None:
    engine = start(fake(), prefill_chunk=8)
    say(engine, [1] * 13, 4)
    say(engine, [1] * 13 + [2], 1)
    found = engine.stats()
    assert found.finished == {"stop": 0, "length": 2, "cancelled": 0, "error": 0}
    assert (found.prompt_tokens, found.generation_tokens) == (27, 5)
    assert (found.prefix_query_tokens, found.prefix_hit_tokens) == (27, 13)
    assert (found.steps, found.step_tokens.num_observed, found.step_tokens.total) == (6, 6, 13 + 3 + 1)
    assert (found.request_prompt_tokens.total, found.request_generation_tokens.total) == (27, 5)
    assert (found.first_token.num_observed, found.next_token.num_observed) == (2, 3)
    assert found.mean_next_token.num_observed == 1
    for each in (found.request_time, found.queue_time, found.prefill_time, found.decode_time):
        assert each.num_observed == 2


def test_phases_add_up_to_the_time_of_a_request(fake: Any, start: Start) -> None:
    engine = start(fake())
    say(engine, [1] * 50, 30)
    found = engine.stats()
    parts = found.queue_time.total + found.prefill_time.total + found.decode_time.total
    assert found.queue_time.total + found.prefill_time.total == pytest.approx(found.first_token.total)
    assert found.next_token.total == pytest.approx(found.decode_time.total)
    assert found.mean_next_token.total == pytest.approx(found.decode_time.total / 29)
    assert parts <= found.request_time.total  # which ends when the request's slot is free


def test_memory_is_of_those_that_run_until_it_is_of_those_that_are_kept(fake: Any, start: Start) -> None:
    gate = threading.Semaphore(1)
    engine = start(fake(num_slots=6, gate=gate), kv_mem=100 * 4096 * 2, max_seqs=2, max_model_len=4096)
    ended = Ended()
    engine.submit([1] * 70, greedy(3), ended)
    while not engine.stats().generation_tokens:
        pass
    found = engine.stats()
    assert (found.running, found.running_kv_tokens, found.kept_kv_tokens) == (1, 2 * BLOCK, 0)
    assert (found.kept_slots, found.free_slots, found.kv_limit) == (0, 5, 100 * 4096 * 2)
    gate.release(2)
    ended.wait()
    found = engine.stats()
    assert (found.running, found.running_kv_tokens, found.kept_kv_tokens) == (0, 0, 2 * BLOCK)
    assert (found.kept_slots, found.free_slots, found.kv_bytes) == (1, 5, 100 * 2 * BLOCK)


def test_the_queue_and_those_that_leave(fake: Any, start: Start) -> None:
    gate = threading.Semaphore(0)
    engine = start(fake(gate=gate), max_seqs=1, max_queue=1)
    runs, waits = Ended(), Ended()
    engine.submit([1], greedy(2), runs)
    waiting = engine.submit([2], greedy(2), waits)
    with pytest.raises(RequestError, match="all this server takes"):
        engine.submit([3], greedy(2), Ended())
    engine.cancel(waiting)
    gate.release(2)
    assert waits.wait().finish_reason == "cancelled"
    runs.wait()
    found = engine.stats()
    assert found.rejected == 1
    assert found.finished == {"stop": 0, "length": 1, "cancelled": 1, "error": 0}
    assert (found.request_time.num_observed, found.queue_time.num_observed) == (2, 1)


def test_failures_have_the_codes_of_their_errors(fake: Any, start: Start) -> None:
    runner = fake()
    engine = start(runner)
    runner.failing_steps.add(1)
    ended = Ended()
    engine.submit([1], greedy(2), ended)
    assert ended.wait().error is not None
    ended = Ended()
    nothing = SamplingParams(allowed_token_ids=frozenset({5}), stop_token_ids=frozenset({5}), min_tokens=2)
    engine.submit([1], nothing, ended)
    assert ended.wait().finish_reason == "error"
    found = engine.stats()
    assert found.failed == {"internal_error": 1, "no_token_left": 1}
    assert found.finished["error"] == found.request_time.num_observed == 2


def test_an_engine_that_fails_counts_whom_it_fails(fake: Any, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start(fake())

    def broken() -> None:
        raise OSError("a bug")

    monkeypatch.setattr(engine._choosing, "guess", broken)
    ended = Ended()
    engine.submit([1], greedy(2), ended)
    assert ended.wait().finish_reason == "error"
    assert engine.stats().finished["error"] == 1


def test_guesses(fake: Any, start: Start) -> None:
    """A drafter that knows the answer: four tokens a draft, the last of them one that comes later."""

    class Knows(PromptLookup):
        def propose(self, requests: Any, lengths: Any) -> list[list[int]]:
            return [[*said[each.num_output : each.num_output + 3], 299] for each in requests]

    engine = start(fake())
    said = [token for output in engine.generate([1] * 9, greedy(9)) for token in output.token_ids]
    engine = start(fake(), Speculation(Knows(), 4, adaptive=False))
    say(engine, [1] * 9, 9)
    engine.close()
    found = engine.stats()
    assert found.generation_tokens == 9
    assert found.drafts == 2  # the first token comes from the prompt, then four, then four
    assert (found.draft_tokens, found.accepted_tokens) == (8, 6)
    assert found.step_tokens.total == 9 + 5 + 5


def test_engines_add_up_and_what_is_closed_has_nothing_now(make_request: Callable[..., Request]) -> None:
    one, other = EngineStats(running=1, rejected=2, kv_bytes=5), EngineStats(running=2, rejected=3)
    one.failed["a"] = 1
    other.failed.update(a=2, b=3)
    one.note_step(3)
    both = one + other
    assert (both.running, both.rejected, both.failed, both.step_tokens.total) == (3, 5, {"a": 3, "b": 3}, 3)
    counted = both.counted()
    assert (counted.running, counted.kv_bytes, counted.rejected, counted.steps) == (0, 0, 5, 1)
    one.note_step(3)
    assert (both.steps, both.step_tokens.num_observed, counted.step_tokens.num_observed) == (1, 1, 1)
