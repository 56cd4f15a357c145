"""Guesses change no token: with drafters that are always right, never, or sometimes, in company and short of memory."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.runtime import draft_model
from mistralrs_onnx.runtime.core import Logits, Row
from mistralrs_onnx.runtime.draft_model import DraftModel
from mistralrs_onnx.runtime.engine import Engine, EngineOptions, Output
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.speculation import MAX_DRAFT, PROBE_AT_LEAST, PROBE_EVERY, Pace, PromptLookup, Speculation

PlainLoop = Callable[..., tuple[int, ...]]
GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
SAMPLED = SamplingParams(seed=5, temperature=0.7, top_p=0.9, max_tokens=40, ignore_eos=True)
PENALIZED = SamplingParams(seed=9, frequency_penalty=0.5, repetition_penalty=1.3, max_tokens=40, ignore_eos=True)
PARAMS = [GREEDY, SAMPLED, PENALIZED]


class Oracle:
    """Knows what each prompt is answered with, and says something else in `wrong` of ten guesses."""

    seconds_per_token = 0.0

    def __init__(self, answers: dict[tuple[int, ...], tuple[int, ...]], wrong: int) -> None:
        self.answers, self.wrong = answers, wrong
        self.rng = np.random.default_rng(0)

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[list[int]]:
        return [self._guess(request, length) for request, length in zip(requests, lengths, strict=True)]

    def _guess(self, request: Request, length: int) -> list[int]:
        coming = self.answers.get(tuple(request.prompt_ids.tolist()), ())[request.num_output :][:length]
        return [token if self.rng.integers(10) >= self.wrong else (token + 1) % 300 for token in coming]

    def forget(self, request: Request) -> None:
        pass


@pytest.fixture
def run(tokenizer: Tokenizer) -> Iterator[Callable[..., Any]]:
    engines: list[Engine] = []

    def run(
        runner: Any, speculation: Speculation | None, asked: Sequence[tuple[list[int], SamplingParams]], **options: Any
    ) -> tuple[Engine, list[tuple[int, ...]]]:
        engine = Engine(runner, tokenizer, frozenset(), 4096, EngineOptions(**options), speculation)
        engines.append(engine)
        engine.start()
        boxes: list[queue.SimpleQueue[Output]] = [queue.SimpleQueue() for _ in asked]
        for (prompt, params), box in zip(asked, boxes, strict=True):
            engine.submit(prompt, params, box.put)
        return engine, [answer_in(box) for box in boxes]

    yield run
    for engine in engines:
        engine.close()


def answer_in(box: queue.SimpleQueue[Output]) -> tuple[int, ...]:
    token_ids: list[int] = []
    while True:
        output = box.get(timeout=60)
        assert output.error is None
        token_ids += output.token_ids
        if output.finish_reason is not None:
            assert output.usage.output_tokens == len(token_ids)
            return tuple(token_ids)


def questions(count: int) -> list[tuple[list[int], SamplingParams]]:
    rng = np.random.default_rng(1)
    return [(rng.integers(0, 300, rng.integers(1, 60)).tolist(), PARAMS[i % 3]) for i in range(count)]


@pytest.mark.parametrize("wrong", [0, 1, 5, 10])
@pytest.mark.parametrize("adaptive", [True, False])
def test_no_token_changes(fake: Any, run: Any, plain_loop: PlainLoop, wrong: int, adaptive: bool) -> None:
    asked = questions(9)
    expected = [plain_loop(prompt, 40, params) for prompt, params in asked]
    oracle = Oracle({tuple(prompt): answer for (prompt, _), answer in zip(asked, expected, strict=True)}, wrong)
    speculation = Speculation(oracle, adaptive=adaptive)
    engine, answers = run(fake(), speculation, asked, prefill_chunk=50)
    assert answers == expected
    stats = engine.stats()
    assert stats.draft_tokens == speculation.num_guessed > 0
    if wrong == 0:
        assert stats.accepted_tokens == stats.draft_tokens
        assert stats.steps < 25  # for 40 tokens each
    if wrong == 10:
        assert stats.accepted_tokens == 0


def test_short_memory_takes_no_guess_from_others(fake: Any, run: Any, plain_loop: PlainLoop) -> None:
    asked = [(prompt, SamplingParams(seed=i, max_tokens=80)) for i, (prompt, _) in enumerate(questions(8))]
    expected = [plain_loop(prompt, 80, params) for prompt, params in asked]
    oracle = Oracle({tuple(prompt): answer for (prompt, _), answer in zip(asked, expected, strict=True)}, 2)
    engine, answers = run(fake(), Speculation(oracle), asked, max_model_len=400, kv_mem=500 * 100, max_seqs=8)
    assert answers == expected
    assert engine.stats().preemptions > 0
    assert engine.stats().kv_bytes <= 500 * 100


def test_a_stop_token_among_guesses_ends_the_answer(fake: Any, run: Any, plain_loop: PlainLoop) -> None:
    prompt = [3, 1, 4]
    answer = plain_loop(prompt, 12, GREEDY)
    oracle = Oracle({(3, 1, 4): answer}, 0)
    params = SamplingParams(temperature=0, max_tokens=40, stop_token_ids=frozenset([answer[7]]))
    engine, [found] = run(fake(), Speculation(oracle, adaptive=False), [(prompt, params)])
    assert found == answer[: answer.index(answer[7]) + 1]
    # What was guessed beyond it is no part of what the cache knows.
    *_, last = engine.generate([*prompt, *answer, 5, 5], GREEDY)
    assert last.usage.cached_tokens <= len(prompt) + len(found)


def test_numbers_that_are_none_harm_one_request(fake: Any, tokenizer: Tokenizer, plain_loop: PlainLoop) -> None:
    runner = fake()
    prompts = [[1, 2], [7, 8]]
    answers = {tuple(prompt): plain_loop(prompt, 40, GREEDY) for prompt in prompts}
    bad = next(token for token in answers[1, 2][5:] if token not in answers[7, 8])
    runner.nan_tokens = {bad}
    engine = Engine(runner, tokenizer, frozenset(), 4096, EngineOptions(), Speculation(Oracle(answers, 0)))
    engine.start()
    boxes: list[queue.SimpleQueue[Output]] = [queue.SimpleQueue() for _ in prompts]
    for prompt, box in zip(prompts, boxes, strict=True):
        engine.submit(prompt, GREEDY, box.put)
    assert answer_in(boxes[1]) == answers[7, 8]
    outputs = []
    while not outputs or outputs[-1].finish_reason is None:
        outputs.append(boxes[0].get(timeout=60))
    assert outputs[-1].finish_reason == "error"
    engine.close()


def test_a_draft_model_of_the_same_weights_is_always_right(fake: Any, run: Any, plain_loop: PlainLoop) -> None:
    asked = [(prompt, GREEDY) for prompt, _ in questions(6)] + [([5] * 900, GREEDY)]  # longer than it reads at once
    draft = DraftModel(fake(num_slots=4), 300)  # two requests have no seat
    speculation = Speculation(draft, most=4, adaptive=False)
    engine, answers = run(fake(), speculation, asked, prefill_chunk=300)
    assert answers == [plain_loop(prompt, 40, GREEDY) for prompt, _ in asked]
    assert engine.stats().accepted_tokens == engine.stats().draft_tokens > 100
    assert sorted(draft._free) == [0, 1, 2, 3]
    assert draft.seconds_per_token > 0


def test_a_draft_model_that_is_wrong_keeps_no_guess(fake: Any, run: Any, plain_loop: PlainLoop) -> None:
    class Wrong(fake):
        def _logits(self, slot: int, stop: int) -> Any:
            return -super()._logits(slot, stop)

    asked = questions(5)
    speculation = Speculation(DraftModel(Wrong(num_slots=8), 300), most=3, adaptive=False)
    _, answers = run(fake(), speculation, asked)
    assert answers == [plain_loop(prompt, 40, params) for prompt, params in asked]


def test_a_drafter_that_fails_is_used_no_more(fake: Any, run: Any, plain_loop: PlainLoop, caplog: Any) -> None:
    class Broken(PromptLookup):
        def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[list[int]]:
            raise OSError("the draft is on fire")

    asked = questions(4)
    engine, answers = run(fake(), Speculation(Broken()), asked)
    assert answers == [plain_loop(prompt, 40, params) for prompt, params in asked]
    assert engine.stats().draft_tokens == 0
    assert caplog.text.count("no more tokens are guessed") == 1


def lookup(tokens: Sequence[int], length: int = 4) -> list[int]:
    request = Request(0, np.array(tokens), GREEDY, 100, 0)
    drafter = PromptLookup()
    drafter.propose([request], [length])
    return drafter.propose([request], [length])[0]


def test_lookup_goes_on_as_it_went_before() -> None:
    assert lookup([1, 2, 3, 4, 5, 6, 9, 2, 3]) == [4, 5, 6, 9]
    assert lookup([1, 2, 3, 7, 8, 1, 2, 3, 9, 8, 1, 2, 3]) == [9, 8, 1, 2], "the last time counts"
    assert lookup([4, 2, 3, 7, 5, 2, 3, 8, 4, 2, 3]) == [7, 5, 2, 3], "the longer match counts"
    assert lookup([1, 2, 1, 2, 1]) == [2, 1, 2, 1], "a loop goes on"
    assert lookup([1, 2, 3]) == []
    assert lookup([1, 2]) == []
    assert lookup([1, 2, 3, 4, 1, 2], 0) == []


def test_lookup_reads_each_token_once() -> None:
    request = Request(0, np.arange(50), GREEDY, 100, 0)
    drafter = PromptLookup()
    assert drafter.propose([request], [4]) == [[]]
    for token in (10, 11):
        request.append(token)
    assert drafter.propose([request], [3]) == [[12, 13, 14]]
    drafter.forget(request)
    assert drafter._histories == {}


def paced(pace: Pace, stood: int, of: int, times: int) -> int:
    request = Request(0, np.arange(3), GREEDY, 100, 0)
    for _ in range(times):
        pace.note_draft(request, of, stood)
    return pace.lengths([request], 0.0)[0]


def test_lengths_follow_luck() -> None:
    assert paced(Pace(), 8, 8, 20) == MAX_DRAFT
    assert paced(Pace(), 4, 8, 20) in range(6, MAX_DRAFT + 1)
    assert paced(Pace(), 1, 4, 20) in range(1, 5)
    assert paced(Pace(), 0, 4, 20) == 0


def test_hopeless_requests_are_tried_now_and_then() -> None:
    pace, request = Pace(), Request(0, np.arange(3), GREEDY, 100, 0)
    for _ in range(20):
        pace.note_draft(request, 4, 0)
    lengths = [pace.lengths([request], 0.0)[0] for _ in range(4 * PROBE_EVERY)]
    assert sum(lengths) == 4
    assert set(lengths) == {0, 1}


def test_they_are_tried_more_rarely_where_that_costs_time() -> None:
    pace, request = Pace(), Request(0, np.arange(3), GREEDY, 100, 0)
    pace.note_step(1, 1.0)
    for _ in range(20):
        pace.note_draft(request, 4, 0)
    assert sum(pace.lengths([request], 0.1)[0] for _ in range(4 * PROBE_AT_LEAST)) == 4
    pace.note_draft(request, 1, 1)
    assert sum(pace.lengths([request], 0.1)[0] for _ in range(PROBE_EVERY)) >= 1, "luck is followed up soon"


class Clocked:
    """A runner on whose clock each token takes a second."""

    num_slots, capacity, vocab_size, token_bytes = 2, 4096, 50, 1
    tgt_non_granular_index = rope_switch = None
    now = 0.0

    def run(self, rows: Sequence[Row]) -> Logits:
        self.now += sum(len(row.token_ids) for row in rows)
        return np.zeros((sum(row.num_logits for row in rows), 50), np.float32)

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        raise NotImplementedError

    def free(self, slot: int, keep: int = 0) -> None:
        pass


def test_what_a_guess_costs_leaves_out_catching_up(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Clocked()
    monkeypatch.setattr(draft_model, "perf_counter", lambda: runner.now)
    draft, request = DraftModel(runner, 50), Request(0, np.arange(3), GREEDY, 4000, 0)
    for _ in range(40):  # each time it reads some twenty tokens and guesses two
        request.token_ids.extend([1] * 20)
        assert len(draft.propose([request], [2])[0]) == 2
    assert draft.seconds_per_token == 1


def test_a_dear_drafter_is_not_tried_and_a_free_one_is() -> None:
    """A draft reads every prompt first; what was said before costs nothing, however full the batch."""
    requests = [Request(i, np.arange(3), GREEDY, 100, 0) for i in range(16)]

    def guessed(seconds_per_token: float) -> int:
        pace = Pace()
        for _ in range(20):
            pace.note_step(1, 1.0)
            pace.note_step(16, 4.0)  # 0.8 fixed, 0.2 each: 16 more tokens take four fifths of a step
            for request in requests:
                pace.note_draft(request, 8, 8)
        return sum(sum(pace.lengths(requests, seconds_per_token)) for _ in range(PROBE_EVERY))

    assert guessed(1e-6) == 0
    assert guessed(0.0) > 0


def test_a_dear_drafter_waits_until_steps_were_timed() -> None:
    pace, request = Pace(), Request(0, np.arange(3), GREEDY, 100, 0)
    assert pace.lengths([request], 1e-6) == [0]
    pace.note_step(1, 1.0)
    assert pace.lengths([request], 1e-6) != [0]
