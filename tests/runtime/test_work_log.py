"""What is logged of steps and throughput, and that nothing is done for what nobody reads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.engine import Engine, EngineOptions, EngineStats
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.scheduler import Scheduled
from mistralrs_onnx.runtime.work_log import WorkLog, throughput

NAME = "mistralrs_onnx.runtime.work_log"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == NAME]


def test_each_step_says_what_it_read_and_wrote(
    fake: Any, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, NAME)
    engine = Engine(fake(), tokenizer, frozenset(), 4096, EngineOptions(prefill_chunk=8))
    engine.start()
    list(engine.generate([1] * 13, SamplingParams(max_tokens=3, ignore_eos=True)))
    engine.close()
    steps = [message.rpartition(" - ") for message in messages(caplog)]
    assert [step for step, _, _ in steps] == ["Prompt[8]", "Prompt[5]", "Completion[14]", "Completion[15]"]
    assert all(took.endswith("ms") and took[:-2].isdigit() for _, _, took in steps)


def test_prompts_and_completions_of_a_step_are_told_apart(
    make_request: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, NAME)
    reading, going = make_request([1] * 9), make_request([1] * 4)
    going.num_computed = 4
    going.append(7)
    log = WorkLog(EngineStats)
    decoding = Scheduled(going, 1, is_drawn=True)
    log.begin([decoding, Scheduled(reading, 6, is_drawn=False), decoding])
    log.end(0.0123)
    assert messages(caplog) == ["Prompt[6] Completion[5, 5] - 12ms"]


def test_nothing_is_done_for_what_nobody_reads(caplog: pytest.LogCaptureFixture) -> None:
    def never() -> NoReturn:
        raise AssertionError("asked although nobody reads it")

    class Untouched(list[Scheduled]):
        __iter__ = __len__ = __getitem__ = lambda *_: never()

    caplog.set_level(logging.WARNING, NAME)
    log = WorkLog(never, never)
    log.rest()
    log.begin(Untouched())
    log.end(1.0)
    assert not caplog.records


def test_throughput_is_told_every_five_seconds_of_work(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    clock, stats = Clock(), EngineStats(running=2, waiting=1)
    log = WorkLog(lambda: EngineStats(running=2, waiting=1, generation_tokens=stats.generation_tokens), clock)
    for seconds in range(12):
        clock.now = 100.0 + seconds
        log.begin([])
        stats.generation_tokens += 30
        log.end(0.5)
    rates = [message.split(",")[0] for message in messages(caplog)]
    assert rates == ["Throughput: 36.0 tokens/s", "Throughput: 30.0 tokens/s"]  # the first saw six steps of one second
    log.rest()
    clock.now += 1000
    log.begin([])
    log.end(0.5)
    assert len(messages(caplog)) == 2  # idle time does not count


def test_a_line_tells_all() -> None:
    before = EngineStats(prompt_tokens=100, prefix_query_tokens=100, prefix_hit_tokens=50, draft_tokens=4)
    after = EngineStats(
        running=3,
        waiting=7,
        prompt_tokens=1100,
        generation_tokens=500,
        prefix_query_tokens=300,
        prefix_hit_tokens=100,
        draft_tokens=14,
        accepted_tokens=5,
    )
    assert throughput(before, after, 10.0) == (
        "Throughput: 50.0 tokens/s, prompts 100.0 tokens/s, prefix cache hit rate 25.0%, "
        "3 running, 7 waiting, guesses accepted 50.0%"
    )
    assert "hit rate -" in throughput(before, before, 1.0)
