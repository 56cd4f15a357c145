"""Which adapters there are, from any thread: names, caps, the active ones, and combinations that live while needed."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_lora import make_adapter

from mistralrs_onnx.graphs.contract import LoraGroup
from mistralrs_onnx.runtime import adapter_registry
from mistralrs_onnx.runtime.adapter_registry import KEPT, MAX_PARTS, AdapterCaps, AdapterRegistry, Part
from mistralrs_onnx.runtime.adapters import Adapter, combine
from mistralrs_onnx.runtime.errors import RequestError

GROUPS = (LoraGroup(("q",), 8, (8,)),)
SIZE = 4 * (8 * 16 + 16 * 8)  # bytes of an adapter of up to 16 ranks


def made(name: str, rank: int = 4, seed: int = 0) -> Adapter:
    return make_adapter(name, GROUPS, rank, seed)


def registry(*names: str, **caps: int) -> AdapterRegistry:
    some = AdapterRegistry(AdapterCaps(**caps))
    for name in names:
        some.add(made(name))
    return some


def names(some: AdapterRegistry) -> list[str]:
    return [each.name for each in some.loaded()]


def chosen(some: AdapterRegistry, *parts: tuple[str, float]) -> Adapter:
    adapter = some.select([Part(*each) for each in parts])
    assert adapter is not None
    return adapter


def test_they_are_listed_in_the_order_of_loading() -> None:
    some = registry("b", "a", "c")
    assert names(some) == ["b", "a", "c"]
    some.remove("a")
    some.add(made("a"))
    assert names(some) == ["b", "c", "a"]
    assert "a" in some
    assert "d" not in some


def test_one_alone_is_itself_and_none_is_the_base() -> None:
    some = registry("a", "b")
    assert chosen(some, ("a", 1.0)) is some.loaded()[0]
    assert some.select([]) is None
    assert some.select(None) is None


def test_a_name_is_taken_until_it_is_replaced() -> None:
    some, newer = registry("a", "b"), made("a", seed=1)
    old = chosen(some, ("a", 1.0))
    with pytest.raises(RequestError, match="unload it first") as caught:
        some.add(newer)
    assert (caught.value.status, caught.value.code) == (400, "adapter_exists")
    assert chosen(some, ("a", 1.0)) is old
    some.add(newer, replace=True)
    assert chosen(some, ("a", 1.0)) is newer
    assert names(some) == ["a", "b"]
    some.add(made("c"), replace=True)  # of nothing
    assert names(some) == ["a", "b", "c"]


def test_who_holds_a_removed_one_keeps_it() -> None:
    some = registry("a")
    adapter = chosen(some, ("a", 1.0))
    before = adapter.groups[0].a.copy()
    assert some.remove("a") is adapter
    some.add(made("a", seed=1))
    np.testing.assert_array_equal(adapter.groups[0].a, before)
    assert chosen(some, ("a", 1.0)) is not adapter
    watched = weakref.ref(adapter)
    del adapter
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize(
    ("name", "told"),
    [("sqll", "did you mean 'sql'"), ("x", r"loaded are \['poem', 'sql'\]"), ("y" * 500, "loaded are")],
)
def test_unknown_names_change_nothing(name: str, told: str) -> None:
    some = registry("sql", "poem")
    some.activate(["sql"])
    for call in (
        lambda: some.select([Part("sql"), Part(name)]),
        lambda: some.activate(["poem", name]),
        lambda: some.remove(name),
    ):
        with pytest.raises(RequestError, match=told) as caught:
            call()
        assert (caught.value.status, caught.value.code, caught.value.param) == (404, "adapter_not_found", "adapters")
        assert len(str(caught.value)) < 300
    assert (names(some), some.active) == (["sql", "poem"], ("sql",))


def test_when_none_is_loaded_that_is_said() -> None:
    with pytest.raises(RequestError, match="loaded are none"):
        registry().select([Part("x")])


def test_caps_of_count_and_rank() -> None:
    some = registry("a", "b", count=2, rank=8)
    with pytest.raises(RequestError, match="2 adapters are loaded, which is all") as caught:
        some.add(made("c"))
    assert caught.value.code == "too_many_adapters"
    with pytest.raises(RequestError, match="has rank 9, at most 8") as caught:
        some.add(made("a", rank=9), replace=True)
    assert caught.value.code == "adapter_too_large"
    some.add(made("a", rank=8), replace=True)
    some.remove("b")
    some.add(made("c"))
    assert names(some) == ["a", "c"]


def test_the_cap_of_bytes_counts_what_is_replaced_as_gone() -> None:
    some = registry("a", "b", num_bytes=3 * SIZE)
    with pytest.raises(RequestError, match=rf"take {2 * SIZE} bytes, {2 * SIZE} more exceed .*unload one") as caught:
        some.add(made("c", rank=17))
    assert (caught.value.status, caught.value.code) == (400, "no_room_for_adapters")
    assert names(some) == ["a", "b"]
    some.add(made("a", rank=17), replace=True)
    with pytest.raises(RequestError, match="exceed"):
        some.add(made("c"))


def test_the_active_ones_are_what_requests_get_that_do_not_say() -> None:
    some = registry("a", "b", "c")
    some.activate(["b"])
    assert some.select(None) is some.loaded()[1]
    assert some.select([]) is None  # said: none
    some.activate(["c", "a", "c"])
    assert some.active == ("c", "a")
    assert some.select(None) is chosen(some, ("c", 1.0), ("a", 1.0))
    some.remove("c")
    assert some.active == ("a",)
    assert some.select(None) is some.loaded()[0]
    some.add(made("a", seed=1), replace=True)
    assert some.select(None) is chosen(some, ("a", 1.0))
    some.activate([])
    assert some.select(None) is None


def test_what_could_not_run_is_not_made_active() -> None:
    some = registry("a", "b", rank=7)
    some.activate(["a"])
    with pytest.raises(RequestError, match="have rank 8 together, at most 7") as caught:
        some.activate(["a", "b"])
    assert (caught.value.status, caught.value.code) == (400, "adapters_too_large")
    assert some.active == ("a",)


def test_a_combination_is_made_once() -> None:
    some = registry("a", "b")
    both = chosen(some, ("a", 0.5), ("b", 2.0))
    assert (both.name, both.rank) == ("a:0.5+b:2", 8)
    assert chosen(some, ("a", 0.5), ("b", 2.0)) is both
    others = [chosen(some, ("b", 2.0), ("a", 0.5)), chosen(some, ("a", 0.5), ("b", 1.0)), chosen(some, ("a", 0.5))]
    assert len({each.generation for each in (both, *others)}) == 4
    some.add(made("a", seed=1), replace=True)
    assert chosen(some, ("a", 0.5), ("b", 2.0)).generation != both.generation


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf")])
def test_weights_are_finite(weight: float) -> None:
    some = registry("a", "b")
    for parts in ([Part("a", weight)], [Part("b"), Part("a", weight)]):
        with pytest.raises(RequestError, match="weight of adapter 'a' must be a finite number"):
            some.select(parts)


def test_a_request_has_so_many_adapters_at_most() -> None:
    some = registry("a")
    assert chosen(some, *[("a", 1.0)] * MAX_PARTS).rank == 4 * MAX_PARTS
    with pytest.raises(RequestError, match=f"at most {MAX_PARTS} adapters in one request, got {MAX_PARTS + 1}"):
        some.select([Part("a")] * (MAX_PARTS + 1))


def combination(some: AdapterRegistry, number: int) -> weakref.ref[Adapter]:
    """Held by nobody afterwards."""
    return weakref.ref(chosen(some, ("a", 2.0 + number)))


def test_combinations_that_nobody_holds_are_forgotten_but_for_the_latest() -> None:
    some = registry("a")
    made_once = [combination(some, i) for i in range(KEPT + 3)]
    used = chosen(some, ("a", 2.0 + 3))  # the oldest that is kept: now the latest
    more = [combination(some, KEPT + 3 + i) for i in range(KEPT - 1)]
    assert [each() is None for each in made_once] == [i != 3 for i in range(KEPT + 3)]
    assert all(each() is not None for each in more)
    combination(some, -1)
    assert chosen(some, ("a", 2.0 + 3)) is used  # not kept any more, but held


@pytest.mark.parametrize("how", ["add", "replace", "remove"])
def test_no_combination_is_kept_when_adapters_come_and_go(how: str) -> None:
    some = registry("a", "b")
    forgotten = combination(some, 0)
    assert forgotten() is not None
    if how == "remove":
        some.remove("b")
    else:
        some.add(made("b" if how == "replace" else "c", seed=1), replace=how == "replace")
    assert forgotten() is None


def test_combinations_count_while_they_are_held() -> None:
    some = registry("a", num_bytes=3 * SIZE)
    running = [chosen(some, ("a", 2.0)), chosen(some, ("a", 3.0))]
    assert chosen(some, ("a", 2.0)) is running[0]
    with pytest.raises(RequestError, match="try later") as caught:
        chosen(some, ("a", 4.0))
    assert (caught.value.status, caught.value.code) == (429, "no_room_for_adapters")
    with pytest.raises(RequestError, match="exceed"):
        some.add(made("b"))
    running.pop()
    assert chosen(some, ("a", 4.0)).name == "a:4"


def test_combinations_that_are_only_kept_make_place() -> None:
    some = registry("a", num_bytes=2 * SIZE)
    for i in range(3):
        combination(some, i)
    some.add(made("b"))
    assert names(some) == ["a", "b"]


def test_combinations_made_at_the_same_time_do_not_exceed_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    some, barrier = registry("a", num_bytes=3 * SIZE), threading.Barrier(6)
    held: list[Adapter] = []
    refused: list[int] = []

    def combine_together(parts: Sequence[tuple[Adapter, float]]) -> Adapter:
        barrier.wait(30)
        return combine(parts)

    monkeypatch.setattr(adapter_registry, "combine", combine_together)

    def select(number: int) -> None:
        try:
            held.append(chosen(some, ("a", 2.0 + number)))
        except RequestError as error:
            refused.append(error.status)

    with ThreadPoolExecutor(6) as pool:
        for _ in pool.map(select, range(6)):
            pass
    assert (len(held), refused) == (2, [429] * 4)


def test_many_threads_make_one_combination() -> None:
    some = registry("a", "b")
    barrier = threading.Barrier(8)

    def select(_: int) -> Adapter:
        barrier.wait(30)
        return chosen(some, ("a", 0.5), ("b", 0.5))

    with ThreadPoolExecutor(8) as pool:
        assert len({id(each) for each in [*pool.map(select, range(8))]}) == 1


def test_threads_that_add_remove_activate_and_select_get_whole_answers() -> None:
    """Whatever comes of it, it is an adapter that was loaded under the name, or 404."""
    some = registry("a", "b")
    generations = {f"x {seed}" for seed in range(8)}
    refused: list[int] = []

    def work(seed: int) -> None:
        for _ in range(60):
            some.add(made("x", seed=seed), replace=True)
            try:
                assert chosen(some, ("x", 1.0)).generation in generations
                both = chosen(some, ("a", 1.0), ("x", 1.0))
                assert both.name == "a:1+x:1"
                some.activate(["x", "a"])
                some.remove("x")
            except RequestError as error:
                refused.append(error.status)
            assert set(some.active) <= {"x", "a"}
            some.select(None)

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(work, range(8)):
            pass
    assert set(refused) <= {404}
    assert names(some)[:2] == ["a", "b"]
    assert len(names(some)) <= 3
