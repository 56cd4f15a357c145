"""Tensors as a tree in which equal layers share a line."""

from __future__ import annotations

import pytest

from mistralrs_onnx.inspecting.inspection import TensorFacts
from mistralrs_onnx.tools.layer_tree import ranges, tree, twigs


def tensor(name: str, kind: str = "F32", size: int = 4) -> TensorFacts:
    return TensorFacts(name, kind, (1, size // 4), size)


def shown(*tensors: TensorFacts) -> list[tuple[int, str, int, int]]:
    """Depth, name, number and bytes of each line."""
    return [(len(twig.last), twig.name, twig.number, twig.num_bytes) for twig in twigs(tree(tensors))]


def layers(numbers: range, kind: str = "F32") -> list[TensorFacts]:
    return [tensor(f"blk.{i}.{name}.weight", kind) for i in numbers for name in ("attn_q", "ffn_up")]


def test_equal_layers_are_one() -> None:
    assert shown(tensor("token_embd.weight", size=40), *layers(range(3))) == [
        (1, "token_embd.weight", 1, 40),
        (1, "blk.0-2", 3, 24),
        (2, "attn_q.weight", 3, 12),
        (2, "ffn_up.weight", 3, 12),
    ]


def test_layers_that_differ_stand_apart_and_come_together_again() -> None:
    mixed = [*layers(range(1)), *layers(range(1, 2), "Q4_K"), *layers(range(2, 4))]
    assert [line for line in shown(*mixed) if line[0] <= 2 and "weight" not in line[1]] == [
        (1, "blk", 1, 32),
        (2, "0,2-3", 3, 24),
        (2, "1", 1, 8),
    ]


def test_experts_in_layers_count_as_often_as_they_are_there() -> None:
    experts = [tensor(f"m.layers.{i}.experts.{e}.w1") for i in range(2) for e in range(4)]
    assert shown(*experts) == [(1, "m.layers.0-1.experts.0-3.w1", 8, 32)]


def test_a_name_may_be_a_tensor_and_a_folder() -> None:
    assert shown(tensor("a"), tensor("a.b"), tensor("a.c")) == [
        (1, "a", 1, 12),
        (2, "b", 1, 4),
        (2, "c", 1, 4),
    ]


def test_names_of_a_thousand_parts_do_no_harm() -> None:
    assert len(shown(tensor(".".join("a" * 5000)), tensor("b"))) == 2


@pytest.mark.parametrize(
    ("numbers", "text"), [([3], "3"), ([2, 0, 1], "0-2"), ([0, 1, 5, 7, 8], "0-1,5,7-8"), ([], "")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
