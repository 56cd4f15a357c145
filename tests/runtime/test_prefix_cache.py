"""Which slot a request gets, and what memory that takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.prefix_cache import BLOCK, PrefixCache, rows_for
from mistralrs_onnx.runtime.request import Request

MakeRequest = Callable[..., Request]


class Desk:
    """A cache whose requests are computed whole when they get a slot."""

    def __init__(
        self,
        runner: Any,
        make_request: MakeRequest,
        max_tokens: int | None = None,
        num_home: int | None = None,
        most_kept: int | None = None,
    ) -> None:
        self.runner = runner
        max_bytes = max_tokens and max_tokens * runner.token_bytes
        self.cache = PrefixCache(runner, max_bytes, reuse=True, num_home=num_home, most_kept=most_kept)
        self._make_request = make_request

    def run(self, prompt: list[int], scope: tuple[str, ...] = ()) -> Request:
        request = self._make_request(prompt)
        request.cache_scope = scope
        self.cache.acquire(request)
        assert self.cache.reserve(request.slot, len(prompt))
        self.runner.run([Row(request.slot, request.num_computed, prompt[request.num_computed :], 0)])
        request.num_computed = len(prompt)
        self.cache.check_integrity()
        return request

    def finish(self, prompt: list[int], scope: tuple[str, ...] = ()) -> Request:
        request = self.run(prompt, scope)
        slot = request.slot
        self.cache.release(request)
        request.slot = slot  # which it was
        return request


@pytest.fixture
def desk(fake: Any, make_request: MakeRequest) -> Desk:
    return Desk(fake(num_slots=4), make_request)


def test_a_longer_turn_continues_in_place(desk: Desk) -> None:
    first = desk.finish([1, 2, 3, 4])
    second = desk.run([1, 2, 3, 4, 5, 6])
    assert (second.slot, second.num_cached) == (first.slot, 4)
    assert not desk.runner.copies


def test_one_token_always_runs(desk: Desk) -> None:
    desk.finish([1, 2, 3, 4])
    assert desk.run([1, 2, 3, 4]).num_cached == 3


def test_a_short_common_prefix_is_copied_so_that_the_long_history_lives(desk: Desk) -> None:
    long = list(range(100))
    desk.finish(long)
    assert desk.run([0, 1, 2, 200]).num_cached == 3
    assert desk.runner.copies == [(0, 1, 3)]
    assert desk.run([*long, 7]).num_cached == 100


def test_what_a_running_slot_has_computed_is_copied(desk: Desk) -> None:
    running = desk.run([1, 2, 3, 4])
    running.append(5)
    running.append(6)
    desk.runner.run([Row(running.slot, 4, [5], 0)])
    running.num_computed = 5
    assert desk.run([1, 2, 3, 4, 5, 6, 7]).num_cached == 5
    assert desk.runner.copies == [(0, 1, 5)]


def test_scopes_are_apart(desk: Desk) -> None:
    desk.finish([1, 2, 3, 4], scope=("a",))
    assert desk.run([1, 2, 3, 4], scope=("b",)).num_cached == 0
    assert desk.run([1, 2, 3, 4], scope=("a",)).num_cached == 3


def test_unused_slots_go_first_then_the_one_idle_for_longest(desk: Desk) -> None:
    assert [desk.finish([10 * i, 1]).slot for i in range(4)] == [0, 1, 2, 3]
    assert desk.finish([0, 1, 2]).slot == 0
    assert desk.run([99]).slot == 1


def test_a_forgotten_slot_is_not_found_again(desk: Desk) -> None:
    request = desk.run([1, 2, 3])
    desk.cache.release(request, forget=True)
    assert desk.run([1, 2, 3]).num_cached == 0
    assert desk.runner.freed == [(0, 0)]


def test_without_reuse_nothing_is_kept(fake: Any, make_request: MakeRequest) -> None:
    runner = fake()
    cache = PrefixCache(runner, None, reuse=False)
    for _ in range(2):
        request = make_request([1, 2, 3])
        cache.acquire(request)
        assert request.num_computed == 0
        cache.reserve(0, 3)
        cache.release(request)
    assert cache.num_bytes == 0
    assert runner.freed == [(0, 0), (0, 0)]


def test_memory_goes_from_the_slot_idle_for_longest(fake: Any, make_request: MakeRequest) -> None:
    desk = Desk(fake(num_slots=4), make_request, max_tokens=3 * BLOCK)
    for first in (1, 2, 3):
        desk.finish([first] * 10)
    assert desk.cache.num_bytes == 3 * BLOCK * desk.runner.token_bytes
    desk.run([4] * 10)
    assert desk.runner.freed == [(0, 0)]
    assert desk.run([3] * 11).num_cached == 10
    assert desk.cache.num_bytes == 3 * BLOCK * desk.runner.token_bytes


def test_without_memory_for_a_copy_the_history_is_cut(fake: Any, make_request: MakeRequest) -> None:
    desk = Desk(fake(num_slots=4), make_request, max_tokens=4 * BLOCK)
    desk.finish([*range(200)])
    request = desk.run([*range(20), 299])
    assert (request.slot, request.num_cached) == (0, 20)
    assert desk.runner.freed == [(0, 20)]
    assert desk.cache.num_bytes == BLOCK * desk.runner.token_bytes


def test_reserve_says_when_only_running_slots_are_left(fake: Any, make_request: MakeRequest) -> None:
    desk = Desk(fake(num_slots=4), make_request, max_tokens=2 * BLOCK)
    first = desk.run([1])
    desk.run([2])
    assert not desk.cache.reserve(first.slot, BLOCK)


def test_a_row_past_the_end_is_counted() -> None:
    assert [rows_for(n) for n in (1, BLOCK - 1, BLOCK)] == [BLOCK, BLOCK, 2 * BLOCK]


def test_requests_run_at_home_and_histories_move_away(fake: Any, make_request: MakeRequest) -> None:
    """Two home slots of six: each conversation sends the oldest away, whose next turn brings it back."""
    desk = Desk(fake(num_slots=6), make_request, num_home=2)
    conversations = [[i, i, i, i] for i in range(1, 5)]
    assert [desk.finish(prompt).slot for prompt in conversations] == [0, 1, 0, 1]
    assert desk.runner.copies == [(0, 2, 4), (1, 3, 4)]
    for prompt in conversations:
        turn = desk.finish([*prompt, 9])
        assert turn.slot < 2
        assert turn.num_cached == 4


def test_home_is_left_when_every_home_slot_runs(fake: Any, make_request: MakeRequest) -> None:
    desk = Desk(fake(num_slots=4), make_request, num_home=1)
    assert desk.run([1, 2, 3]).slot == 0
    assert desk.run([4, 5, 6]).slot == 1


def test_nothing_moves_when_memory_is_short(fake: Any, make_request: MakeRequest) -> None:
    desk = Desk(fake(num_slots=4), make_request, max_tokens=BLOCK, num_home=1)
    desk.finish([1, 2, 3])
    assert desk.run([4, 5, 6]).slot == 0
    assert not desk.runner.copies


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_only_so_many_finished_conversations_are_kept(fake: Any, make_request: MakeRequest, most: int) -> None:
    desk = Desk(fake(num_slots=8), make_request, most_kept=most)
    asked = [[i, i, i] for i in range(4)]
    for prompt in asked:
        desk.finish(prompt)
    kept = [slot for slot in desk.cache.slots if len(slot.history)]
    assert sorted(int(slot.history[0]) for slot in kept) == [3, 2, 1][:most][::-1]
    assert desk.cache.num_bytes == sum(slot.num_rows for slot in kept) * desk.runner.token_bytes
    assert (desk.runner.held >= 0).sum() == 3 * most


def test_the_conversation_used_last_is_kept(fake: Any, make_request: MakeRequest) -> None:
    desk = Desk(fake(num_slots=8), make_request, most_kept=2)
    desk.finish([1] * 9)
    desk.finish([2] * 9)
    desk.finish([1] * 9 + [5])
    desk.finish([3] * 9)
    assert desk.run([1] * 9 + [5, 6]).num_cached == 10
    assert desk.run([2] * 9).num_cached == 0


def test_what_runs_is_shared_even_if_nothing_is_kept(fake: Any, make_request: MakeRequest) -> None:
    desk = Desk(fake(num_slots=4), make_request, most_kept=0)
    desk.run([1, 2, 3, 4])
    assert desk.run([1, 2, 3, 5]).num_cached == 3
