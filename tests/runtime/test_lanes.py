"""Where adapters lie and which rows go there, small enough to check by eye; then what the graph would compute of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tiny_lora import make_adapter

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.graphs.contract import LoraGroup
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.lanes import Feeds, Lanes, Window, _Pool, passes

GROUPS = (LoraGroup(("q", "k"), 3, (4, 2)), LoraGroup(("o",), 4, (3,)))
EXPERT = LoraGroup(("model.layers.0.mlp.experts.0.up",), 3, (5,), is_expert=True)
A, B, C, D, E = (make_adapter(name, GROUPS) for name in "ABCDE")


def rows_of(*parts: tuple[Adapter | None, int]) -> list[Row]:
    """A row for each adapter and number of tokens."""
    return [Row(slot, 0, [0] * count, 1, adapter=adapter) for slot, (adapter, count) in enumerate(parts)]


def place(lanes: Lanes, *parts: tuple[Adapter | None, int]) -> tuple[Window, dict[str, object]]:
    rows = rows_of(*parts)
    window, feeds = lanes._place(rows, sum(len(row.token_ids) for row in rows))
    return window, {name: value.tolist() for name, value in feeds.items()}


def hold(lanes: Lanes, *adapters: Adapter) -> Window:
    return place(lanes, *((adapter, 1) for adapter in adapters))[0]


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Generations that were copied into a lane, in order."""
    found: list[str] = []
    fill = _Pool._fill

    def recorded(pool: _Pool, index: int, adapter: Adapter) -> None:
        found.append(adapter.name)
        fill(pool, index, adapter)

    monkeypatch.setattr(_Pool, "_fill", recorded)
    return found


def held(lanes: Lanes, blocks: int = 1) -> list[str]:
    """Names of what lies in each lane."""
    return [lane.generation.partition(" ")[0] for lane in lanes._pools[blocks].lanes]


def test_rows_of_two_adapters_and_the_base() -> None:
    window, feeds = place(Lanes(GROUPS, 4), (A, 3), (None, 2), (B, 1), (A, 1))
    assert window == Window(1, 0, 2)
    assert feeds == {
        contract.LORA_TOKENS: [[5, 5, 5, 5], [0, 1, 2, 6]],  # B is in lane 0; padding repeats the last
        contract.LORA_PLACES: [0, 4, 5, 6, 7],
        contract.LORA_ROWS: [[5], [0], [1], [2], [6]],
        contract.LORA_USED: [True, True],
    }


def test_a_token_alone_is_shown_twice() -> None:
    window, feeds = place(Lanes(GROUPS, 4), (None, 1), (A, 1))
    assert window == Window(1, 0, 1)
    assert feeds[contract.LORA_TOKENS] == [[1, 1]]
    assert feeds[contract.LORA_PLACES] == [0]


def test_without_adapters_a_lane_that_nothing_comes_from_stands_in() -> None:
    lanes = Lanes(GROUPS, 4)
    window, feeds = place(lanes, (None, 3))
    assert window == Window(1, 0, 1)
    assert feeds == {
        contract.LORA_TOKENS: [[0, 0]],
        contract.LORA_PLACES: [],
        contract.LORA_ROWS: [],
        contract.LORA_USED: [False, False],
    }
    assert lanes._place(rows_of((None, 3)), 3)[1][contract.LORA_ROWS].shape == (0, 1)


def test_only_groups_that_someone_adapts_are_used() -> None:
    o = make_adapter("o", GROUPS, wanted=lambda linear: linear == "o")
    k = make_adapter("k", GROUPS, wanted=lambda linear: linear == "k")
    lanes = Lanes(GROUPS, 2)
    assert place(lanes, (o, 1), (None, 1))[1][contract.LORA_USED] == [False, True]
    assert place(lanes, (k, 1))[1][contract.LORA_USED] == [True, False]
    assert place(lanes, (k, 1), (o, 1))[1][contract.LORA_USED] == [True, True]


def test_experts_are_told_the_lane_of_every_token() -> None:
    groups = (*GROUPS, EXPERT)
    a, b = make_adapter("a", groups), make_adapter("b", groups)
    lanes = Lanes(groups, 4)
    feeds = lanes._place(rows_of((a, 2), (None, 1), (b, 2)), 8)[1]
    assert feeds[contract.LORA_LANE].tolist() == [1, 1, -1, 0, 0, 0, 0, 0]  # three of padding, like the last
    assert lanes._place(rows_of((None, 1)), 2)[1][contract.LORA_LANE].tolist() == [-1, -1]
    assert (lanes.row_multiple, Lanes(GROUPS, 4).row_multiple) == (2, 1)


def test_what_lies_there_is_not_copied_again(filled: list[str]) -> None:
    lanes = Lanes(GROUPS, 4)
    window = hold(lanes, A, B)
    assert hold(lanes, A, B) == hold(lanes, B, A) == window
    assert hold(lanes, A, B, C) == Window(1, 0, 3)
    assert filled == ["A", "B", "C"]


def test_some_of_what_lies_there(filled: list[str]) -> None:
    """Three wanted in four lanes, two in three: an idle lane costs less than a copy."""
    lanes = Lanes(GROUPS, 4)
    hold(lanes, A, B, C, D)
    assert held(lanes) == ["D", "C", "B", "A"]
    assert hold(lanes, B) == Window(1, 2, 3)
    assert hold(lanes, A, B) == Window(1, 2, 4)
    assert hold(lanes, B, D) == Window(1, 0, 3)
    assert hold(lanes, A, B, D) == Window(1, 0, 4)
    assert filled == ["A", "B", "C", "D"]


def test_an_idle_lane_is_in_the_window_and_nothing_comes_from_it() -> None:
    lanes = Lanes(GROUPS, 4)
    hold(lanes, A, B, C)  # C, B, A
    window, feeds = place(lanes, (A, 1), (C, 2))
    assert window == Window(1, 0, 3)
    assert feeds[contract.LORA_TOKENS] == [[1, 2], [0, 0], [0, 0]]
    assert feeds[contract.LORA_PLACES] == [0, 1, 4]
    assert feeds[contract.LORA_ROWS] == [[1], [2], [0]]


def test_far_apart_they_are_brought_together_once(filled: list[str]) -> None:
    lanes = Lanes(GROUPS, 4)
    for adapter in (A, B, C, D):
        hold(lanes, adapter)
    assert held(lanes) == ["A", "B", "C", "D"]
    assert hold(lanes, A, D) == Window(1, 0, 2)
    assert held(lanes) == ["A", "D", "C", "D"]  # B was used before C
    del filled[:]
    assert hold(lanes, A, D) == Window(1, 0, 2)
    assert hold(lanes, D, C) == Window(1, 2, 4)
    assert filled == []


def test_the_one_used_before_the_others_makes_place(filled: list[str]) -> None:
    lanes = Lanes(GROUPS, 3)
    for adapter in (A, B, C, A, D):
        hold(lanes, adapter)
    assert held(lanes) == ["A", "D", "C"]
    hold(lanes, E)
    assert held(lanes) == ["A", "D", "E"]
    assert filled == ["A", "B", "C", "D", "E"]


def test_all_lanes_are_wanted_at_once(filled: list[str]) -> None:
    lanes = Lanes(GROUPS, 3)
    hold(lanes, A, B, C)
    assert hold(lanes, D, B, E) == Window(1, 0, 3)
    assert sorted(held(lanes)) == ["B", "D", "E"]
    assert filled == ["A", "B", "C", "D", "E"]


def test_equal_adapters_of_two_names_share_a_lane(filled: list[str]) -> None:
    twin = make_adapter("A", GROUPS)
    lanes = Lanes(GROUPS, 4)
    for _ in range(2):
        window, feeds = place(lanes, (A, 1), (twin, 2))
        assert window == Window(1, 0, 1)
        assert feeds[contract.LORA_TOKENS] == [[0, 1, 2]]
    assert filled == ["A"]


@pytest.mark.parametrize(("rank", "blocks"), [(8, 1), (16, 1), (24, 2), (40, 4), (64, 4), (65, 8), (200, 16)])
def test_ranks_have_pools_of_powers_of_two(rank: int, blocks: int) -> None:
    adapter = make_adapter("x", GROUPS, rank)
    lanes = Lanes(GROUPS, 2)
    window = hold(lanes, adapter)
    assert window == Window(blocks, 0, 1)
    shapes = {name: array.shape for name, array in lanes._arrays(window)}
    assert shapes == {
        "q+k.lora_A": (1, 2 * blocks, 3, 16),
        "q.lora_B": (1, 16 * blocks, 4),
        "k.lora_B": (1, 16 * blocks, 2),
        "o.lora_A": (1, blocks, 4, 16),
        "o.lora_B": (1, 16 * blocks, 3),
    }
    check_lane(lanes, window, 0, adapter)


def test_a_small_adapter_beside_a_large_one_lies_in_the_pool_of_the_large_one() -> None:
    large = make_adapter("large", GROUPS, 40)
    lanes = Lanes(GROUPS, 2)
    assert hold(lanes, A) == Window(1, 0, 1)
    window = hold(lanes, A, large)
    assert window == Window(4, 0, 2)
    check_lane(lanes, window, 0, large)
    check_lane(lanes, window, 1, A)
    assert hold(lanes, A) == Window(1, 0, 1)


def test_nothing_is_left_of_who_was_in_the_lane_before() -> None:
    """Neither in groups that the next one does not adapt, nor in linears, nor in ranks."""
    lanes = Lanes(GROUPS, 1)
    check_lane(lanes, hold(lanes, before := make_adapter("before", GROUPS, 64)), 0, before)
    for linear, rank in (("o", 50), ("k", 40), ("q", 33)):
        after = make_adapter(linear, GROUPS, rank, wanted=linear.__eq__)
        check_lane(lanes, hold(lanes, after), 0, after)
        check_lane(lanes, hold(lanes, before), 0, before)
    fewer = make_adapter("fewer", GROUPS, 40)
    check_lane(lanes, hold(lanes, fewer), 0, fewer)


def check_lane(lanes: Lanes, window: Window, lane: int, adapter: Adapter) -> None:
    """The lane holds the adapter, and zeros wherever that has nothing."""
    arrays = dict(lanes._arrays(window))
    for number, group in enumerate(GROUPS):
        a, *bs = (arrays[name][lane] for name in contract.lora_inputs(group))
        a = a.reshape(len(bs), window.blocks, *a.shape[1:])
        packed = adapter.groups.get(number)
        expected = np.zeros_like(a)
        if packed is not None:
            expected[:, : adapter.blocks] = packed.a
        np.testing.assert_array_equal(a, expected)
        for i, b in enumerate(bs):
            expected = np.zeros_like(b)
            if packed is not None:
                expected[: 16 * adapter.blocks] = packed.bs[i]
            np.testing.assert_array_equal(b, expected)


class Binding:
    """Which inputs were bound, and where."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[tuple[int, ...], int]] = {}
        self.names: list[str] = []

    def bind_input(self, name: str, device: str, number: int, dtype: object, shape: tuple[int, ...], at: int) -> None:
        self.inputs[name] = tuple(shape), at
        self.names.append(name)


def test_lanes_are_bound_where_they_lie_and_only_anew_when_the_window_moves() -> None:
    lanes, binding = Lanes(GROUPS, 4), Binding()
    feeds = [contract.LORA_PLACES, contract.LORA_ROWS, contract.LORA_TOKENS, contract.LORA_USED]

    def bound(*parts: tuple[Adapter | None, int]) -> list[str]:
        del binding.names[:]
        lanes.bind(binding, rows_of(*parts), 0)  # type: ignore[arg-type]
        return sorted(set(binding.names) - set(feeds))

    names = ["k.lora_B", "o.lora_A", "o.lora_B", "q+k.lora_A", "q.lora_B"]
    assert bound((None, 2)) == names  # a graph wants its inputs, whatever is in them
    assert bound((A, 1)) == []
    assert bound((A, 1), (B, 1)) == names
    assert bound((B, 1), (A, 2)) == []
    assert sorted(binding.names) == feeds
    for name, array in lanes._arrays(Window(1, 0, 2)):
        assert binding.inputs[name] == (array.shape, array.ctypes.data)
    grid = lanes._feeds[contract.LORA_TOKENS]
    assert binding.inputs[contract.LORA_TOKENS] == (grid.shape, grid.ctypes.data)


def test_decodes_of_many_adapters_run_together() -> None:
    assert passes(rows_of((A, 1), (B, 1), (None, 1), (C, 1), (A, 1))) == [[0, 1, 2, 3, 4]]
    assert passes(rows_of((None, 5), (None, 1))) == [[0, 1]]
    assert passes(rows_of((A, 1))) == [[0]]


def test_a_prompt_runs_apart_from_decodes_of_others() -> None:
    """Of 5 rows: 2 lanes of 100 are within 2 · 101 + 4 · 5, and 3 lanes are not within 2 · 102 + 4 · 5."""
    assert passes(rows_of((None, 1), (B, 1), (A, 100), (C, 1), (D, 1))) == [[0, 1, 2], [3, 4]]
    assert passes(rows_of((None, 1), (B, 1), (A, 8), (C, 1), (D, 1))) == [[0, 1, 2, 3, 4]]


def test_prompts_of_two_adapters_run_together_where_they_are_alike() -> None:
    assert passes(rows_of((A, 100), (B, 90), (C, 80))) == [[0, 1, 2]]
    assert passes(rows_of((C, 300), (None, 500), (A, 20), (B, 20), (D, 20))) == [[0, 1, 2], [3, 4]]


def test_rows_of_an_adapter_and_of_the_base_stay_together() -> None:
    parts = [(B, 1), (A, 200), (B, 1), (None, 1), (C, 1), (A, 1), (None, 30), (D, 1), (B, 1)]
    assert passes(rows_of(*parts)) == [[0, 1, 2, 3, 5, 6, 8], [4, 7]]


def test_no_pass_wastes_more_than_is_said() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        choice = rng.integers(0, 6, rng.integers(1, 17))
        lengths = np.where(rng.random(len(choice)) < 0.5, 1, rng.integers(1, 300, len(choice))).tolist()
        owners = [(None, A, B, C, D, E)[i] for i in choice]
        rows = rows_of(*zip(owners, lengths, strict=True))
        found = passes(rows)
        assert sorted(i for each in found for i in each) == list(range(len(rows)))
        where = {(rows[i].adapter, number) for number, each in enumerate(found) for i in each}
        assert len(where) == len({row.adapter for row in rows})  # each in one pass
        for each in found:
            lanes = [sum(len(rows[i].token_ids) for i in each if rows[i].adapter is one) for one in (A, B, C, D, E)]
            tokens = [count for count in lanes if count]
            if len(tokens) > 1:
                assert len(tokens) * max(tokens) <= 2 * sum(tokens) + 4 * len(rows)


def test_what_the_graph_makes_of_it_is_each_rows_own_adapter() -> None:
    """Random steps of random adapters in three lanes, against B · A · x."""
    groups = (*GROUPS, EXPERT)
    some = {"o": lambda linear: linear == "o", "all": lambda linear: True, "k": lambda linear: linear in ("k", "o")}
    kinds = [(rank, wanted) for rank in (3, 16, 24, 40, 200) for wanted in some.values()]
    adapters = [make_adapter(str(i), groups, rank, i, wanted) for i, (rank, wanted) in enumerate(kinds)]
    lanes, rng = Lanes(groups, 3), np.random.default_rng(0)
    for _ in range(60):
        chosen = rng.choice(len(adapters), 3, replace=False)
        rows = rows_of(*((None if i == 3 else adapters[chosen[i]], n) for i, n in rng.integers((0, 1), (4, 5), (4, 2))))
        check_updates(lanes, groups, rows, rng)


def check_updates(lanes: Lanes, groups: Sequence[LoraGroup], rows: Sequence[Row], rng: np.random.Generator) -> None:
    num_tokens = sum(len(row.token_ids) for row in rows)
    owners = [row.adapter for row in rows for _ in row.token_ids]
    window, feeds = lanes._place(rows, num_tokens)
    arrays = dict(lanes._arrays(window))
    for number, group in enumerate(groups):
        x = rng.standard_normal((num_tokens, group.in_features)).astype(np.float32)
        got = np.zeros((num_tokens, sum(group.out_features)), np.float32)
        if feeds[contract.LORA_USED][number]:
            a, *bs = (arrays[name] for name in contract.lora_inputs(group))
            got = (of_experts if group.is_expert else of_lanes)(feeds, x, a, bs)
        expected = np.array([own(owner, number, each, got.shape[1]) for owner, each in zip(owners, x, strict=True)])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)  # sums of up to 200 ranks in another order


def of_lanes(feeds: Feeds, x: np.ndarray, a: np.ndarray, bs: list[np.ndarray]) -> np.ndarray:
    products = np.stack(
        [product(x[tokens], *each) for tokens, *each in zip(feeds[contract.LORA_TOKENS], a, *bs, strict=True)]
    )
    updates = np.zeros((len(x), products.shape[2]), np.float32)
    places, rows = feeds[contract.LORA_PLACES], feeds[contract.LORA_ROWS][:, 0]
    assert len(set(rows.tolist())) == len(rows)  # no token twice
    updates[rows] += products.reshape(-1, products.shape[2])[places]
    return updates


def of_experts(feeds: Feeds, x: np.ndarray, a: np.ndarray, bs: list[np.ndarray]) -> np.ndarray:
    lanes = feeds[contract.LORA_LANE]
    zeros = np.zeros(sum(b.shape[2] for b in bs), np.float32)
    return np.stack(
        [
            zeros if lane < 0 else product(each[None], a[lane], *(b[lane] for b in bs))[0]
            for lane, each in zip(lanes, x, strict=True)
        ]
    )


def product(x: np.ndarray, a: np.ndarray, *bs: np.ndarray) -> np.ndarray:
    """x (M, K), a (linears · blocks, K, 16), b (blocks · 16, N) each: (M, all N)."""
    ranks = (x @ a).reshape(len(bs), -1, len(x), 16).swapaxes(1, 2).reshape(len(bs), len(x), -1)
    return np.concatenate([rank @ b for rank, b in zip(ranks, bs, strict=True)], axis=1)


def own(adapter: Adapter | None, number: int, x: np.ndarray, width: int) -> np.ndarray:
    if adapter is None or number not in adapter.groups:
        return np.zeros(width, np.float32)
    packed = adapter.groups[number]
    return product(x[None], packed.a.reshape(-1, *packed.a.shape[2:]), *packed.bs)[0]
