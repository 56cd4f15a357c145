"""Tensors as a tree by the dots in their names; siblings with numbers for names that are equal share a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mistralrs_onnx.inspecting.inspection import TensorFacts

DEEPEST = 12  # parts of a name; names come from files


class Leaf(NamedTuple):
    """What equal tensors have in common."""

    type: str
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Branch:
    """`tensor`: that of this very name, if there is one. `copies`: how many equal siblings it stands for."""

    name: str
    tensor: Leaf | None
    children: tuple[Branch, ...]
    copies: int = 1

    @property
    def num_bytes(self) -> int:
        """Of all copies."""
        own = 0 if self.tensor is None else self.tensor.num_bytes
        return self.copies * (own + sum(child.num_bytes for child in self.children))


class Twig(NamedTuple):
    """A line of the tree. `last`: for each level, whether it is the last of its siblings; `number`: of equal ones."""

    last: tuple[bool, ...]
    name: str
    tensor: Leaf | None
    number: int
    num_bytes: int


def tree(tensors: Iterable[TensorFacts]) -> tuple[Branch, ...]:
    return _branches([Named(tuple(tensor.name.split(".", DEEPEST)), tensor) for tensor in tensors])


class Named(NamedTuple):
    """A tensor and what is left of its name."""

    parts: tuple[str, ...]
    tensor: TensorFacts


def _branches(tensors: Iterable[Named]) -> tuple[Branch, ...]:
    groups: dict[str, list[Named]] = {}
    for parts, tensor in tensors:
        groups.setdefault(parts[0], []).append(Named(parts[1:], tensor))
    return tuple(map(_joined, _folded([_branch(name, group) for name, group in groups.items()])))


def _branch(name: str, group: Sequence[Named]) -> Branch:
    own = next((tensor for parts, tensor in group if not parts), None)
    leaf = None if own is None else Leaf(own.type, own.shape, own.num_bytes)
    return Branch(name, leaf, _branches(each for each in group if each.parts))


def _folded(branches: Sequence[Branch]) -> Iterator[Branch]:
    """Equal siblings with numbers for names become one, in the place of the first."""
    equal: dict[object, list[Branch]] = {}
    for branch in branches:
        key = (branch.tensor, branch.children) if branch.name.isdecimal() else branch.name
        equal.setdefault(key, []).append(branch)
    for found in equal.values():
        if len(found) == 1:
            yield found[0]
        else:
            yield replace(found[0], name=ranges([int(each.name) for each in found]), copies=len(found))


def _joined(branch: Branch) -> Branch:
    """With its only child, in one line."""
    if branch.tensor is not None or len(branch.children) != 1:
        return branch
    child = branch.children[0]
    copies = branch.copies * child.copies
    return Branch(f"{branch.name}.{child.name}", child.tensor, child.children, copies)


def ranges(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 as `0-2,5`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def twigs(branches: Sequence[Branch], last: tuple[bool, ...] = (), copies: int = 1) -> Iterator[Twig]:
    for i, branch in enumerate(branches):
        here, number = (*last, i == len(branches) - 1), copies * branch.copies
        yield Twig(here, branch.name, branch.tensor, number, copies * branch.num_bytes)
        yield from twigs(branch.children, here, number)
