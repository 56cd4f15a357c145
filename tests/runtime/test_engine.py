"""Requests from many threads, told by their outputs, on a model of which every token is known."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.engine import Engine, EngineOptions, Output
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.prefix_cache import BLOCK
from mistralrs_onnx.runtime.sampling import SamplingParams

PlainLoop = Callable[..., tuple[int, ...]]
Start = Callable[..., Engine]

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


class Mailbox:
    """A sink that can be waited for."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.first, self.ended = threading.Event(), threading.Event()

    def __call__(self, output: Output) -> None:
        self.outputs.append(output)
        self.first.set()
        if output.finish_reason is not None:
            self.ended.set()

    def wait(self) -> Output:
        assert self.ended.wait(60)
        assert sum(output.finish_reason is not None for output in self.outputs) == 1
        return self.outputs[-1]

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token_id for output in self.outputs for token_id in output.token_ids)

    @property
    def text(self) -> str:
        return "".join(output.text for output in self.outputs)


@pytest.fixture
def start(tokenizer: Tokenizer) -> Iterator[Start]:
    engines: list[Engine] = []

    def start(runner: Any, eos: frozenset[int] = frozenset(), context_length: int = 4096, **options: Any) -> Engine:
        engines.append(Engine(runner, tokenizer, eos, context_length, EngineOptions(**options)))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def prompts(num: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(300) for _ in range(rng.randrange(1, 80))] for _ in range(num)]


def assert_idle(engine: Engine) -> None:
    """After `close`, when the engine's thread is gone."""
    stats = engine.stats()
    assert (stats.running, stats.waiting, len(engine._live)) == (0, 0, 0)
    assert all(slot.request is None for slot in engine._scheduler.cache.slots)
    assert not engine._thread.is_alive()


def test_sixteen_staggered_requests_are_each_as_if_alone(fake: Any, start: Start, plain_loop: PlainLoop) -> None:
    engine = start(fake(), prefill_chunk=40)
    asked = prompts(16)
    boxes = [Mailbox() for _ in asked]
    for prompt, box in zip(asked, boxes, strict=True):
        engine.submit(prompt, GREEDY, box)
    for prompt, box in zip(asked, boxes, strict=True):
        last = box.wait()
        assert box.token_ids == plain_loop(prompt, 12, GREEDY)
        assert (last.finish_reason, last.usage.prompt_tokens, last.usage.output_tokens) == ("length", len(prompt), 12)


@pytest.mark.parametrize("kv_mem", [None, 500 * 100])
def test_a_seed_gives_the_same_tokens_in_any_company(
    fake: Any, start: Start, plain_loop: PlainLoop, kv_mem: int | None
) -> None:
    """With 500 tokens of memory for 8 requests of up to 160 some are preempted, and nobody can tell."""
    engine = start(fake(), max_model_len=400, kv_mem=kv_mem, max_seqs=8)
    boxes = []
    for i, prompt in enumerate(prompts(8)):
        params = SamplingParams(seed=i, top_p=0.9, max_tokens=80, frequency_penalty=0.5, repetition_penalty=1.2)
        boxes.append((prompt, params, Mailbox()))
        engine.submit(prompt, params, boxes[-1][2])
    for prompt, params, box in boxes:
        box.wait()
        assert box.token_ids == plain_loop(prompt, 80, params)
    assert (engine.stats().preemptions > 0) == (kv_mem is not None)
    assert kv_mem is None or engine.stats().kv_bytes <= kv_mem


def test_text_is_that_of_the_tokens(fake: Any, start: Start, tokenizer: Tokenizer) -> None:
    outputs = list(start(fake()).generate([1, 2, 3], SamplingParams(seed=1, max_tokens=100)))
    token_ids = [token_id for output in outputs for token_id in output.token_ids]
    assert len(token_ids) == 100
    assert "".join(output.text for output in outputs) == tokenizer.decode(token_ids)


def test_a_second_turn_reports_what_was_cached(fake: Any, start: Start) -> None:
    engine = start(fake())
    first = list(engine.generate(range(50), GREEDY))
    answer = [token_id for output in first for token_id in output.token_ids]
    *_, last = engine.generate([*range(50), *answer, 1, 2], GREEDY)
    assert first[-1].usage == (50, 0, 12)
    assert last.usage == (64, 61, 12)  # the last token of an answer is drawn and never run
    assert engine.stats().prefix_hit_tokens == 61
    assert engine.stats().prefix_query_tokens == 114


def test_eos_ends_and_is_no_text(fake: Any, start: Start, plain_loop: PlainLoop, tokenizer: Tokenizer) -> None:
    expected = plain_loop([5], 12, GREEDY)
    eos = expected[6]
    at = expected.index(eos)
    params = SamplingParams(temperature=0, max_tokens=12)
    outputs = list(start(fake(), eos=frozenset({eos})).generate([5], params))
    assert "".join(output.text for output in outputs) == tokenizer.decode(expected[:at])
    assert (outputs[-1].finish_reason, outputs[-1].stop_reason) == ("stop", None)
    assert outputs[-1].usage.output_tokens == at + 1
    *_, ignoring = start(fake(), eos=frozenset({eos})).generate([5], GREEDY)
    assert ignoring.usage.output_tokens == 12


def test_a_stop_token_is_named(fake: Any, start: Start, plain_loop: PlainLoop) -> None:
    token_id = plain_loop([5], 12, GREEDY)[4]
    params = SamplingParams(temperature=0, stop_token_ids=frozenset({token_id}))
    *_, last = start(fake()).generate([5], params)
    assert (last.finish_reason, last.stop_reason) == ("stop", token_id)


def test_a_stop_string_across_tokens_is_not_told(
    fake: Any, start: Start, plain_loop: PlainLoop, tokenizer: Tokenizer
) -> None:
    text = tokenizer.decode(plain_loop([9], 30, GREEDY))
    stop = text[12:19]
    outputs = list(start(fake()).generate([9], SamplingParams(temperature=0, max_tokens=30, stop=(stop,))))
    assert "".join(output.text for output in outputs) == text[: text.index(stop)]
    assert (outputs[-1].finish_reason, outputs[-1].stop_reason) == ("stop", stop)
    assert outputs[-1].usage.output_tokens < 30


def test_an_answer_ends_with_the_context(fake: Any, start: Start, plain_loop: PlainLoop) -> None:
    engine = start(fake(capacity=32), context_length=32)
    params = SamplingParams(temperature=0)
    outputs = list(engine.generate(range(20), params))
    assert sum((output.token_ids for output in outputs), ()) == plain_loop(range(20), 12, params)
    assert outputs[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "code", "words"),
    [
        ([], None, "empty_prompt", "empty"),
        ([300], None, "invalid_value", "0 to 299, got 300"),
        ([-1], None, "invalid_value", "got -1"),
        ([1] * 32, None, "context_length_exceeded", "holds 32 tokens, the prompt has 32"),
        ([1] * 30, 3, "context_length_exceeded", "has 30 and 3 more"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    fake: Any, start: Start, prompt: list[int], max_tokens: int | None, code: str, words: str
) -> None:
    engine = start(fake(), context_length=32)
    with pytest.raises(RequestError, match=words) as caught:
        engine.submit(prompt, SamplingParams(max_tokens=max_tokens), Mailbox())
    assert (caught.value.status, caught.value.code) == (400, code)


def test_a_full_queue_refuses_and_recovers(fake: Any, start: Start) -> None:
    gate = threading.Semaphore(0)
    engine = start(fake(gate=gate), max_seqs=2, max_queue=3)
    boxes = [Mailbox() for _ in range(5)]
    for box in boxes:
        engine.submit([1], GREEDY, box)
    with pytest.raises(RequestError) as caught:
        engine.submit([1], GREEDY, Mailbox())
    assert (caught.value.status, caught.value.code) == (429, "queue_full")
    gate.release(1000)
    assert all(box.wait().finish_reason == "length" for box in boxes)
    engine.submit([1], GREEDY, boxes[0])


def test_cancelling_ends_a_waiting_and_a_running_request(fake: Any, start: Start) -> None:
    gate = threading.Semaphore(0)
    engine = start(fake(gate=gate), max_seqs=1)
    running, waiting, next_one = Mailbox(), Mailbox(), Mailbox()
    first = engine.submit([1], SamplingParams(temperature=0), running)
    second = engine.submit([2], GREEDY, waiting)
    engine.submit([3], GREEDY, next_one)
    for request in (first, second, first):
        engine.cancel(request)
    gate.release(1000)
    assert running.wait().finish_reason == waiting.wait().finish_reason == "cancelled"
    assert next_one.wait().finish_reason == "length"
    engine.cancel(first)


def test_closing_the_iterator_cancels(fake: Any, start: Start) -> None:
    engine = start(fake(), max_seqs=1)
    stream = engine.generate([1], SamplingParams(temperature=0))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    *_, last = engine.generate([2], GREEDY)
    assert last.finish_reason == "length"


def test_five_hundred_clients_of_whom_most_leave(fake: Any, start: Start, plain_loop: PlainLoop) -> None:
    threads = threading.active_count()
    engine = start(fake(), max_model_len=200, kv_mem=10 * BLOCK * 100, prefill_chunk=64)
    rng, boxes = random.Random(0), []
    for i, prompt in enumerate(prompts(500, seed=1)):
        box = Mailbox()
        request = engine.submit(prompt, GREEDY, box)
        leaves = i % 10 < 7
        boxes.append((prompt, leaves, box))
        if leaves:
            if rng.random() < 0.3:
                assert box.first.wait(60)
            engine.cancel(request)
    for prompt, leaves, box in boxes:
        reason = box.wait().finish_reason
        assert reason == "length" or (leaves and reason == "cancelled")
        expected = plain_loop(prompt, len(box.token_ids), GREEDY)
        assert box.token_ids == expected
    engine.close()
    assert_idle(engine)
    assert threading.active_count() == threads


def test_a_failing_step_ends_its_requests_and_no_other(fake: Any, start: Start, plain_loop: PlainLoop) -> None:
    runner = fake()
    runner.failing_steps = {3}
    engine = start(runner)
    bad, good = Mailbox(), Mailbox()
    engine.submit([1, 2, 3], GREEDY, bad)
    error = bad.wait().error
    assert error is not None
    assert error.status == 500
    assert "fire" not in str(error)
    engine.submit([1, 2, 3], GREEDY, good)
    assert good.wait().finish_reason == "length"
    assert good.token_ids == plain_loop([1, 2, 3], 12, GREEDY)
    assert good.outputs[-1].usage.cached_tokens == 0


def test_logits_without_numbers_end_one_request(fake: Any, start: Start, plain_loop: PlainLoop) -> None:
    gate, runner = threading.Semaphore(0), fake()
    runner.gate, runner.nan_tokens = gate, {299}
    engine = start(runner)
    bad, good = Mailbox(), Mailbox()
    engine.submit([1, 299], GREEDY, bad)
    engine.submit([7], GREEDY, good)
    gate.release(1000)
    assert bad.wait().finish_reason == "error"
    expected = plain_loop([7], 12, GREEDY)
    assert 299 not in expected
    assert good.wait().finish_reason == "length"
    assert good.token_ids == expected


def test_a_failing_sink_loses_its_own_request(fake: Any, start: Start) -> None:
    engine = start(fake(), max_seqs=1)

    def fail(output: Output) -> None:
        raise BrokenPipeError(output.text)

    engine.submit([1], SamplingParams(temperature=0), fail)
    *_, last = engine.generate([2], GREEDY)
    assert last.finish_reason == "length"


def test_draining_finishes_what_runs_and_refuses_the_rest(fake: Any, start: Start) -> None:
    gate = threading.Semaphore(0)
    engine = start(fake(gate=gate))
    box = Mailbox()
    engine.submit([1], GREEDY, box)
    closing = threading.Thread(target=engine.close, args=(60.0,))
    closing.start()
    while engine._deadline is None:
        threading.Event().wait(0.001)
    with pytest.raises(RequestError) as caught:
        engine.submit([2], GREEDY, Mailbox())
    assert (caught.value.status, caught.value.code) == (503, "draining")
    gate.release(1000)
    closing.join(60)
    assert box.wait().finish_reason == "length"
    assert_idle(engine)


def test_a_second_close_does_not_wait_for_the_first(fake: Any, start: Start) -> None:
    gate = threading.Semaphore(0)
    engine = start(fake(gate=gate))
    box = Mailbox()
    engine.submit([1], SamplingParams(temperature=0), box)
    closers = [threading.Thread(target=engine.close, args=(drain,)) for drain in (1000.0, 0.0)]
    for closer in closers:
        closer.start()
    gate.release(5000)
    for closer in closers:
        closer.join(60)
    assert box.wait().finish_reason == "cancelled"
    assert_idle(engine)


def test_closing_an_engine_that_never_started(fake: Any, tokenizer: Tokenizer) -> None:
    engine = Engine(fake(), tokenizer, frozenset(), 100, EngineOptions())
    box = Mailbox()
    engine.submit([1], GREEDY, box)
    engine.close()
    assert box.wait().finish_reason == "cancelled"
    assert_idle(engine)


def test_an_engine_with_a_bug_tells_everyone(fake: Any, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start(fake())
    monkeypatch.setattr(engine._choosing._sampler, "sample", lambda logits, requests: None)
    box = Mailbox()
    engine.submit([1], GREEDY, box)
    assert box.wait().finish_reason == "error"
    with pytest.raises(RequestError) as caught:
        engine.submit([1], GREEDY, box)
    assert (caught.value.status, caught.value.code) == (503, "engine_failed")


def test_an_idle_engine_takes_no_steps(fake: Any, start: Start) -> None:
    runner = fake()
    engine = start(runner)
    *_, last = engine.generate([1], GREEDY)
    assert last.finish_reason == "length"
    assert engine.stats().steps == len(runner.steps) == 12
    assert engine.stats().generation_tokens == 12


def test_options_that_contradict_the_model_are_refused(fake: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="exceeds the model's context of 100"):
        Engine(fake(), tokenizer, frozenset(), 100, EngineOptions(max_model_len=101))
    with pytest.raises(ValueError, match="kv_mem"):
        Engine(fake(), tokenizer, frozenset(), 100, EngineOptions(kv_mem=BLOCK))


@pytest.mark.parametrize("kv_mem", [None, 400 * 100])
def test_answers_to_one_prompt_read_it_once(fake: Any, start: Start, plain_loop: PlainLoop, kv_mem: int | None) -> None:
    runner = fake()
    engine = start(runner, prefill_chunk=40, kv_mem=kv_mem, max_model_len=200)
    prompt, boxes = list(range(150)), [Mailbox() for _ in range(4)]
    params = [SamplingParams(seed=i, max_tokens=30) for i in range(4)]
    parent = engine.submit(prompt, params[0], boxes[0])
    for each, box in zip(params[1:], boxes[1:], strict=True):
        engine.submit(prompt, each, box, parent=parent)
    other = Mailbox()
    engine.submit([7] * 60, GREEDY, other)  # waits for none of them
    for each, box in zip(params, boxes, strict=True):
        box.wait()
        assert box.token_ids == plain_loop(prompt, 30, each)
    assert other.wait().finish_reason == "length"
    if kv_mem is None:
        read = sum(len(row.token_ids) for step in runner.steps for row in step if row.start < 149)
        assert read < 150 + 60 + 4 * 30
        assert [box.outputs[-1].usage.cached_tokens for box in boxes[1:]] == [149] * 3


def test_answers_go_on_when_the_one_that_reads_is_cancelled(fake: Any, start: Start, plain_loop: PlainLoop) -> None:
    gate = threading.Semaphore(0)
    engine = start(fake(gate=gate), prefill_chunk=10)
    prompt, boxes = list(range(100)), [Mailbox(), Mailbox(), Mailbox()]
    parent = engine.submit(prompt, GREEDY, boxes[0])
    child = engine.submit(prompt, GREEDY, boxes[1], parent=parent)
    left = engine.submit(prompt, GREEDY, boxes[2], parent=parent)
    gate.release(2)
    engine.cancel(left)
    engine.cancel(parent)
    gate.release(1000)
    assert boxes[1].wait().finish_reason == "length"
    assert boxes[1].token_ids == plain_loop(prompt, 12, GREEDY)
    assert (boxes[0].wait().finish_reason, boxes[2].wait().finish_reason) == ("cancelled", "cancelled")
    assert child.finish_reason == "length"


@pytest.mark.parametrize(("most", "cached"), [(None, 3), (0, 0), (1, 1), (2, 2)])
def test_so_many_conversations_are_remembered(fake: Any, start: Start, most: int | None, cached: int) -> None:
    engine = start(fake(), prefix_cache_n=most)
    asked = [[i] * 30 for i in (1, 2, 3)]
    for prompt in asked:
        list(engine.generate(prompt, GREEDY))
    again = [list(engine.generate(prompt, GREEDY))[-1].usage.cached_tokens for prompt in reversed(asked)]
    assert sum(tokens == 29 for tokens in again) == cached


def test_so_many_conversations_cannot_be(fake: Any, start: Start) -> None:
    with pytest.raises(ValueError, match="prefix_cache_n must be at least 0, got -1"):
        start(fake(), prefix_cache_n=-1)


@pytest.mark.parametrize(
    ("max_tokens", "num_prompt", "num_read"),
    [(5, 27, 27), (5, 28, 27), (5, 500, 27), (None, 31, 31), (None, 32, 22), (None, 500, 22), (31, 500, 1)],
)
def test_a_long_prompt_loses_its_beginning(
    fake: Any, start: Start, plain_loop: PlainLoop, max_tokens: int | None, num_prompt: int, num_read: int
) -> None:
    """Without max_tokens room for 10 more is kept."""
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    prompt = [i % 300 for i in range(num_prompt)]
    outputs = list(start(fake(), max_model_len=32, truncate_sequence=True).generate(prompt, params))
    num_more = max_tokens or 32 - num_read
    assert outputs[-1].usage == (num_read, 0, num_more)
    found = tuple(token_id for output in outputs for token_id in output.token_ids)
    assert found == plain_loop(prompt[-num_read:], num_more, params)


def test_who_asks_for_more_than_the_context_is_refused_whatever_is_cut(fake: Any, start: Start) -> None:
    engine = start(fake(), max_model_len=32, truncate_sequence=True)
    with pytest.raises(RequestError, match="lower max_tokens"):
        engine.submit([1, 2], SamplingParams(max_tokens=32), Mailbox())


def test_a_request_says_whether_it_is_cut(fake: Any, start: Start) -> None:
    cutting, other = (start(fake(), max_model_len=32, truncate_sequence=value) for value in (True, False))
    with pytest.raises(RequestError, match="truncate_sequence"):
        cutting.submit([1] * 40, GREEDY, Mailbox(), truncate=False)
    box = Mailbox()
    other.submit([1] * 40, GREEDY, box, truncate=True)
    assert box.wait().usage.prompt_tokens == 20


def test_a_context_shorter_than_what_is_reserved_takes_a_token(fake: Any, start: Start) -> None:
    engine = start(fake(), max_model_len=6, truncate_sequence=True)
    assert list(engine.generate([1] * 9, SamplingParams(ignore_eos=True)))[-1].usage == (1, 0, 5)
