from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from mistralrs_onnx.runtime.adapters import Adapter, Packed
from mistralrs_onnx.runtime.core import Logits, Row
from mistralrs_onnx.runtime.engine import Engine, EngineOptions
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.tools.benching.measuring import (
    Prompts,
    Result,
    Spread,
    Timing,
    Workload,
    greedy,
    measure,
    repeat,
    run,
    tpot,
)

VOCAB = 50


class CountingRunner:
    """Always says token 7, and remembers how many tokens each row of each step had."""

    num_slots, capacity, vocab_size, token_bytes, rope_switch, tgt_non_granular_index = 20, 256, VOCAB, 1, None, None

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def run(self, rows: Sequence[Row]) -> Logits:
        self.steps.append([len(row.token_ids) for row in rows])
        logits = np.zeros((sum(row.num_logits for row in rows), VOCAB), np.float32)
        logits[:, 7] = 1
        return logits

    def copy(self, source: int, target: int, num_tokens: int) -> None: ...

    def free(self, slot: int, keep: int = 0) -> None: ...


@pytest.fixture
def runner() -> CountingRunner:
    return CountingRunner()


@pytest.fixture
def engine(runner: CountingRunner) -> Iterator[Engine]:
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, "t0"))
    engine = Engine(runner, tokenizer, frozenset([7]), 256, EngineOptions(prefill_chunk=64))
    engine.start()
    yield engine
    engine.close()


def test_requests_have_adapters_in_turn(engine: Engine, runner: CountingRunner) -> None:
    packed = Packed(np.zeros((1, 1, 2, 16), np.float32), (np.zeros((16, 2), np.float32),))
    one, two = (Adapter(name, name, 1, 1, {0: packed}) for name in ("one", "two"))
    batch = run(engine, [[3]] * 5, greedy(1), Prompts(VOCAB), (one, None, two))
    assert [request.adapter for request in batch.requests] == [one, None, two, one, None]
    measure(engine, Workload("tg", 2, depth=9, concurrency=3), Prompts(VOCAB), (one, two))
    assert runner.steps[-3:] == [[1, 1, 1]] * 3  # what lies before was in the cache, under the same adapters


PRIMER = [1]  # the step of the request that holds the engine until all others are there


def test_a_prompt_is_read_in_chunks_and_nothing_is_generated(engine: Engine, runner: CountingRunner) -> None:
    timing = measure(engine, Workload("pp", 100), Prompts(VOCAB, seed=1))
    assert timing.num_tokens == 100
    assert (timing.seconds,) == timing.ttfts
    assert timing.seconds > 0
    assert timing.tpots == ()
    assert runner.steps == [PRIMER, [64], [36]]


def test_requests_generate_together_and_the_first_tokens_do_not_count(engine: Engine, runner: CountingRunner) -> None:
    timing = measure(engine, Workload("tg", 5, concurrency=3), Prompts(VOCAB, seed=1))
    assert timing.num_tokens == 5 * 3
    assert runner.steps == [PRIMER] + [[1, 1, 1]] * 6
    assert timing.rate == 15 / timing.seconds


def test_depth_is_there_before_the_clock_runs(engine: Engine, runner: CountingRunner) -> None:
    timing = measure(engine, Workload("tg", 2, depth=30, concurrency=2), Prompts(VOCAB, seed=1))
    assert timing.num_tokens == 2 * 2
    assert runner.steps == [PRIMER, [30, 30], PRIMER, [1, 1], [1, 1], [1, 1]]


def test_a_prompt_at_depth_reads_only_what_is_new(engine: Engine, runner: CountingRunner) -> None:
    assert measure(engine, Workload("pp", 20, depth=30), Prompts(VOCAB, seed=1)).num_tokens == 20
    assert runner.steps == [PRIMER, [30], PRIMER, [20]]


def test_the_warm_up_does_not_count_and_no_prompt_comes_again(engine: Engine, runner: CountingRunner) -> None:
    result = repeat(engine, Workload("pp", 16), Prompts(VOCAB, seed=1), repetitions=2)
    assert len(result.timings) == 2
    assert runner.steps == [PRIMER, [16]] * 3


@pytest.mark.parametrize("warmup", [0, 3])
def test_there_are_as_many_warm_ups_as_asked(engine: Engine, runner: CountingRunner, warmup: int) -> None:
    repeat(engine, Workload("pp", 16), Prompts(VOCAB, seed=1), repetitions=1, warmup=warmup)
    assert runner.steps == [PRIMER, [16]] * (warmup + 1)


def test_a_batch_tells_when_all_began_and_ended(engine: Engine) -> None:
    batch = run(engine, [[1, 2], [3, 4]], greedy(4), Prompts(VOCAB, seed=1))
    assert [request.num_output for request in batch.requests] == [4, 4]
    assert batch.ended.num_generated - batch.begun.num_generated == 6
    assert batch.released_at < batch.begun.time < batch.ended.time


def test_a_context_that_is_too_short_is_an_error_and_does_not_hang(engine: Engine) -> None:
    with pytest.raises(RequestError, match="the context holds 256 tokens"):
        measure(engine, Workload("tg", 300), Prompts(VOCAB, seed=1))
    assert measure(engine, Workload("tg", 3), Prompts(VOCAB, seed=1)).num_tokens == 3


def test_rates_are_of_one_request_and_throughput_is_of_all() -> None:
    result = Result(Workload("tg", 8, concurrency=4), (Timing(32, 1.0, (0.01,)), Timing(32, 2.0, (0.03,))))
    assert result.rates == [8, 4]
    assert result.rate == 6
    assert result.rate_stdev == pytest.approx(8**0.5)
    assert result.ms_per_token == pytest.approx(1000 / 6)
    assert result.throughput == 24
    assert result.ttfts.mean == pytest.approx(20)
    assert result.tpots is None


def test_percentiles_are_those_of_numpy() -> None:
    seconds = np.random.default_rng(0).exponential(0.02, 257)
    spread = Spread.of(list(seconds))
    assert spread is not None
    assert spread.mean == pytest.approx(1000 * seconds.mean())
    assert (spread.p50, spread.p99) == pytest.approx(tuple(1000 * np.percentile(seconds, [50, 99])))
    assert Spread.of([]) is None


def test_time_per_output_token_is_that_after_the_first(engine: Engine) -> None:
    batch = run(engine, [[1, 2]], greedy(5), Prompts(VOCAB))
    [request] = batch.requests
    request.first_token_at, request.finished_at = 10.0, 10.2
    assert tpot(request) == pytest.approx(0.05)
    timing = measure(engine, Workload("tg", 4, concurrency=3), Prompts(VOCAB))
    assert len(timing.ttfts) == len(timing.tpots) == 3
    assert all(0 < seconds * 4 <= timing.seconds * 1.5 for seconds in timing.tpots)


def test_one_repetition_has_no_spread() -> None:
    assert Result(Workload("pp", 8), (Timing(8, 1.0, (1.0,)),)).rate_stdev == 0


def test_names_are_those_that_people_paste_into_issues() -> None:
    assert Workload("pp", 512).name == "pp512"
    assert Workload("tg", 128, depth=500, concurrency=16).name == "tg128 @ d500"
