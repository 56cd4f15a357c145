"""Adapters in the form that lanes hold: packed by hand, refused when they do not fit, and added up with weights."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_lora import make_adapter, make_updates

from mistralrs_onnx.graphs.contract import LoraGroup, Update
from mistralrs_onnx.runtime.adapters import Adapter, combine, pack_adapter
from mistralrs_onnx.runtime.errors import RequestError

GROUPS = (LoraGroup(("q", "k"), 3, (4, 2)), LoraGroup(("o",), 4, (3,)))
NUMBER = {"q": (0, 0), "k": (0, 1), "o": (1, 0)}  # of group and linear


def test_a_linear_by_hand() -> None:
    a = np.array([[1, 2, 3], [4, 5, 6]], np.float32)  # (rank, K)
    b = np.array([[1, 2], [3, 4]], np.float32)  # (N, rank)
    adapter = pack_adapter("x", "digest", {"k": Update(a, b)}, GROUPS, "parent")
    assert (adapter.name, adapter.generation, adapter.rank, adapter.blocks) == ("x", "digest", 2, 1)
    assert (adapter.parent, list(adapter.groups)) == ("parent", [0])
    packed = adapter.groups[0]
    assert packed.a.shape == (2, 1, 3, 16)
    assert packed.a[1, 0, :, :2].tolist() == a.T.tolist()
    assert packed.bs[1][:2].tolist() == b.T.tolist()
    assert not packed.a[0].any()
    assert not packed.a[1, 0, :, 2:].any()
    assert not packed.bs[0].any()
    assert not packed.bs[1][2:].any()
    assert [each.shape for each in packed.bs] == [(16, 4), (16, 2)]
    assert adapter.nbytes == 4 * (2 * 3 * 16 + 16 * 4 + 16 * 2)


@pytest.mark.parametrize(("rank", "blocks"), [(1, 1), (16, 1), (17, 2), (40, 3), (200, 13)])
def test_ranks_fill_blocks(rank: int, blocks: int) -> None:
    adapter = make_adapter("x", GROUPS, rank)
    assert (adapter.rank, adapter.blocks) == (rank, blocks)
    for linear, update in make_updates(GROUPS, rank).items():
        np.testing.assert_allclose(product(adapter, linear), update.b @ update.a, rtol=0, atol=1e-5)


def test_linears_of_other_ranks_in_one_adapter() -> None:
    updates = make_updates(GROUPS, 20) | {"k": make_updates(GROUPS, 3)["k"]}
    adapter = pack_adapter("x", "digest", updates, GROUPS)
    assert (adapter.rank, adapter.blocks) == (20, 2)
    for linear, update in updates.items():
        np.testing.assert_allclose(product(adapter, linear), update.b @ update.a, rtol=0, atol=1e-6)


A, B = np.ones((2, 3), np.float32), np.ones((2, 2), np.float32)
DAMAGED = np.array([[1, np.nan, 1], [1, 1, 1]], np.float32)


@pytest.mark.parametrize(
    ("updates", "code", "told"),
    [
        ({}, "invalid_adapter", "changes nothing"),
        ({"lm_head": Update(A, B)}, "unsupported_adapter", "lm_head, which can only be merged"),
        ({"k": Update(A.T, B)}, "invalid_adapter", r"\(3, 2\) and b \(2, 2\) for k, which is \(2, 3\)"),
        ({"k": Update(A, np.ones((4, 2), np.float32))}, "invalid_adapter", "belongs to another model"),
        ({"k": Update(A, np.ones((2, 3), np.float32))}, "invalid_adapter", "belongs to another model"),
        ({"k": Update(DAMAGED, B)}, "invalid_adapter", "values for k that are not finite"),
        ({"k": Update(A, np.full((2, 2), np.inf, np.float32))}, "invalid_adapter", "values for k that are not finite"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(updates: dict[str, Update], code: str, told: str) -> None:
    with pytest.raises(RequestError, match=told) as caught:
        pack_adapter("x", "digest", updates, GROUPS)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert "'x'" in str(caught.value)


def test_a_combination_is_the_weighted_sum() -> None:
    one, two = make_adapter("one", GROUPS, 3, 1), make_adapter("two", GROUPS, 17, 2, lambda linear: linear == "o")
    both = combine([(two, -0.5), (one, 2.0)])
    assert (both.name, both.rank, both.blocks) == ("two:-0.5+one:2", 20, 3)
    assert sorted(both.groups) == [0, 1]
    for linear in ("q", "k"):
        np.testing.assert_allclose(product(both, linear), 2 * product(one, linear), rtol=0, atol=1e-6)
    expected = 2 * product(one, "o") - 0.5 * product(two, "o")
    np.testing.assert_allclose(product(both, "o"), expected, rtol=0, atol=1e-5)


def test_parts_stay_as_they_are() -> None:
    one = make_adapter("one", GROUPS)
    before = product(one, "q")
    combine([(one, 3.0), (one, 2.0)])
    np.testing.assert_array_equal(product(one, "q"), before)


def test_generations_tell_combinations_apart() -> None:
    one, two, newer = make_adapter("one", GROUPS), make_adapter("two", GROUPS), make_adapter("one", GROUPS, seed=1)
    parts = [[(one, 1.0), (two, 1.0)], [(two, 1.0), (one, 1.0)], [(one, 1.0), (two, 0.5)], [(newer, 1.0), (two, 1.0)]]
    parts += [[(one, 1.0 + 2**-52), (two, 1.0)], [(one, 2.0)], [(one, 1.0), (one, 1.0)]]
    assert len({combine(each).generation for each in parts}) == len(parts)
    assert combine(parts[0]).generation == combine(parts[0]).generation


def product(adapter: Adapter, linear: str) -> np.ndarray:
    """b · a of a packed linear, (N, K)."""
    group, i = NUMBER[linear]
    packed = adapter.groups[group]
    a = packed.a[i].swapaxes(1, 2).reshape(-1, packed.a.shape[2])  # (blocks · 16, K)
    return np.asarray(packed.bs[i].T @ a)
