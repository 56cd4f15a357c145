"""Who runs next, within which budget, and who has to go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistralrs_onnx.runtime.prefix_cache import BLOCK
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.scheduler import Limits, Scheduler

MakeRequest = Callable[..., Request]
PlainLoop = Callable[..., tuple[int, ...]]


def step(scheduler: Scheduler, runner: Any) -> list[tuple[int, int]]:
    """One greedy step, (request, tokens) of it; ends requests at their length."""
    scheduled = scheduler.schedule()
    logits = runner.run([item.row for item in scheduled])
    scheduler.commit(scheduled, logits.argmax(-1).tolist())
    for item in scheduled:
        if len(item.request.token_ids) >= item.request.max_len:
            scheduler.remove(item.request)
    scheduler.check_integrity()
    return [(item.request.id, item.num_tokens) for item in scheduled]


def finish(scheduler: Scheduler, runner: Any) -> list[list[tuple[int, int]]]:
    steps = []
    while scheduler.has_work:
        steps.append(step(scheduler, runner))
    return steps


def outputs(requests: Sequence[Request]) -> list[tuple[int, ...]]:
    return [tuple(request.token_ids[request.num_prompt :]) for request in requests]


@pytest.fixture
def make(make_request: MakeRequest) -> Callable[..., Request]:
    def make(request_id: int, num_prompt: int, num_output: int = 4) -> Request:
        prompt = np.random.default_rng(request_id).integers(0, 300, num_prompt).tolist()
        return make_request(prompt, request_id, num_prompt + num_output, temperature=0)

    return make


def test_prompts_share_a_budget_and_decodes_do_not_count(fake: Any, make: Callable[..., Request]) -> None:
    runner = fake()
    scheduler = Scheduler(runner, Limits(4, 4096, prefill_chunk=10))
    for request_id, num_prompt in enumerate([4, 25, 3]):
        scheduler.add(make(request_id, num_prompt, num_output=3))
    assert finish(scheduler, runner) == [
        [(0, 4), (1, 6)],
        [(0, 1), (1, 10)],
        [(0, 1), (1, 9), (2, 1)],
        [(1, 1), (2, 2)],
        [(1, 1), (2, 1)],
        [(2, 1)],
    ]


def test_a_long_prompt_stalls_no_decode(fake: Any, make: Callable[..., Request]) -> None:
    runner = fake()
    scheduler = Scheduler(runner, Limits(8, 4096, prefill_chunk=64))
    for request_id in range(3):
        scheduler.add(make(request_id, 5, num_output=60))
    step(scheduler, runner)
    scheduler.add(make(3, 2000))
    for _ in range(31):
        ran = dict(step(scheduler, runner))
        assert [ran[i] for i in range(3)] == [1, 1, 1]
        assert ran[3] <= 64


def test_no_more_than_max_seqs_run_and_the_first_come_first(fake: Any, make: Callable[..., Request]) -> None:
    runner = fake()
    scheduler = Scheduler(runner, Limits(2, 4096))
    for request_id in range(4):
        scheduler.add(make(request_id, 3, num_output=2))
    assert finish(scheduler, runner) == [[(0, 3), (1, 3)], [(0, 1), (1, 1)], [(2, 3), (3, 3)], [(2, 1), (3, 1)]]


def test_logits_come_for_whole_prompts_only(fake: Any, make: Callable[..., Request]) -> None:
    runner = fake()
    scheduler = Scheduler(runner, Limits(2, 4096, prefill_chunk=4))
    scheduler.add(make(0, 9, num_output=1))
    finish(scheduler, runner)
    assert [row.num_logits for rows in runner.steps for row in rows] == [0, 0, 1]


def test_memory_pressure_preempts_the_latest_and_changes_no_token(
    fake: Any, make: Callable[..., Request], plain_loop: PlainLoop
) -> None:
    runner = fake(capacity=4 * BLOCK)
    scheduler = Scheduler(runner, Limits(4, 4 * BLOCK - 1, kv_mem=6 * BLOCK * runner.token_bytes))
    requests = [make(i, 50, num_output=120) for i in range(4)]
    for request in requests:
        scheduler.add(request)
    finish(scheduler, runner)
    assert scheduler.num_preemptions == sum(request.num_preemptions for request in requests) > 0
    assert requests[0].num_preemptions == 0
    assert outputs(requests) == [plain_loop(r.prompt_ids.tolist(), 120, r.params) for r in requests]


def test_a_waiting_request_is_removed_without_a_trace(fake: Any, make: Callable[..., Request]) -> None:
    runner = fake()
    scheduler = Scheduler(runner, Limits(1, 4096))
    first, second = make(0, 3), make(1, 3)
    scheduler.add(first)
    scheduler.add(second)
    step(scheduler, runner)
    scheduler.remove(second)
    assert all(ran == [(0, 1)] for ran in finish(scheduler, runner))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(21, 100), "needs as many slots"),
        (Limits(1, 5000), "exceeds a slot's"),
        (Limits(0, 100), "at least 1"),
        (Limits(1, 100, kv_mem=12_799), "needs 12,800 bytes of KV cache, kv_mem is 12,799"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(fake: Any, limits: Limits, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scheduler(fake(), limits)


def test_integrity_names_what_is_wrong(fake: Any, make: Callable[..., Request]) -> None:
    runner = fake()
    scheduler = Scheduler(runner, Limits(4, 4096))
    scheduler.add(make(0, 3))
    step(scheduler, runner)
    scheduler.running.clear()
    with pytest.raises(RuntimeError, match=r"slots say they run \{0: 0\}, requests say \{\}"):
        scheduler.check_integrity()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_course_of_events_gives_the_tokens_of_a_plain_loop(
    data: st.DataObject, fake: Any, make_request: MakeRequest, plain_loop: PlainLoop
) -> None:
    """Prompts that share prefixes arrive and leave at any moment, in little memory and few slots."""
    runner = fake(num_slots=data.draw(st.integers(3, 6)), capacity=3 * BLOCK)
    kv_mem = data.draw(st.sampled_from([None, 3, 4, 7]))
    limits = Limits(
        max_seqs=data.draw(st.integers(1, 3)),
        max_model_len=3 * BLOCK - 1,
        prefill_chunk=data.draw(st.integers(1, 90)),
        kv_mem=kv_mem and kv_mem * BLOCK * runner.token_bytes,
        prefix_cache=data.draw(st.booleans()),
    )
    scheduler = Scheduler(runner, limits)
    requests: list[Request] = []
    for request_id in range(data.draw(st.integers(1, 10))):
        common = data.draw(st.integers(0, 90))
        prompt = [*range(common), *data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=20))]
        request = make_request(prompt, request_id, len(prompt) + data.draw(st.integers(1, 60)), temperature=0)
        request.cache_scope = data.draw(st.sampled_from([(), ("a",)]))
        requests.append(request)
        scheduler.add(request)
        for _ in range(data.draw(st.integers(0, 30))):
            if scheduler.has_work:
                step(scheduler, runner)
        if scheduler.has_work and data.draw(st.booleans()):
            scheduler.remove(data.draw(st.sampled_from([*scheduler.running, *scheduler.waiting])))
            scheduler.check_integrity()
    finish(scheduler, runner)
    greedy = SamplingParams(temperature=0)
    for request, output in zip(requests, outputs(requests), strict=True):
        assert output == plain_loop(request.prompt_ids.tolist(), len(output), greedy)
