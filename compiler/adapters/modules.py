"""Which linear layers of the base the modules of an adapter are, and which rows of B belong to each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate
from typing import NamedTuple

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Naming, Shape, places

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MAX_COMPARED = 5000  # names, to find the nearest


class Member(NamedTuple):
    """A canonical linear layer, without `.weight`: its rows of the module that it is or is a part of, its expert."""

    name: str
    rows: slice
    expert: int = 0


@dataclass(frozen=True, slots=True)
class Module:
    """A linear layer as the adapter saw it, of shape (N, K) = `shape`; fused ones have several members.

    `num_experts`: layers of that shape that are one parameter.
    """

    name: str
    shape: tuple[int, int]
    members: tuple[Member, ...]
    num_experts: int = 1


def find_modules(names: Iterable[str], naming: Naming, shapes: Mapping[str, Shape]) -> dict[str, Module]:
    """Modules by the names that a Hugging Face model has for them. `shapes`: of canonical weights.

    Raises CompileError for a module that the base does not have, that is no linear layer, or that is there twice.
    """
    names = tuple(names)
    found: dict[str, dict[str, bool]] = {name: {} for name in names}  # canonical weights, whether interleaved
    for weight, place in places({f"{name}.weight": (1, 1) for name in names}, naming).items():
        found[place.stored.removesuffix(".weight")][weight] = place.is_interleaved
    return {name: _module(name, tuple(parts), any(parts.values()), shapes) for name, parts in found.items()}


def _module(name: str, weights: tuple[str, ...], is_interleaved: bool, shapes: Mapping[str, Shape]) -> Module:
    for weight in weights or (f"{name}.weight",):
        _check(name, weight, shapes)
    counts = [shapes[weight][0] for weight in weights]
    rows = row_slices(counts, is_interleaved=is_interleaved)
    members = tuple(Member(weight.removesuffix(".weight"), rows[i]) for i, weight in enumerate(weights))
    return Module(name, (sum(counts), shapes[weights[0]][1]), members)


def row_slices(counts: Sequence[int], *, is_interleaved: bool) -> list[slice]:
    """Rows of each of several matrices that lie on top of each other, or row by row in turn."""
    if is_interleaved:
        return [slice(i, None, len(counts)) for i in range(len(counts))]
    return [slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]


def _check(name: str, weight: str, shapes: Mapping[str, Shape]) -> None:
    if weight == EMBEDDING:
        raise CompileError(f"{name} is the embedding table: adapters of embeddings are not supported")
    if weight == HEAD and weight not in shapes and EMBEDDING in shapes:
        raise CompileError(
            f"{name} is tied to the embedding table in this base: an update of one would change the other, so adapters"
            " of it are not supported"
        )
    if weight not in shapes:
        near = get_close_matches(weight, shapes, 1) if len(shapes) <= MAX_COMPARED else []
        hint = f", the nearest is {near[0].removesuffix('.weight')}" if near else ""
        raise CompileError(f"the base has no module {name}{hint}: the adapter is of another model")
    if len(shapes[weight]) != 2:
        raise CompileError(f"{name} is no linear layer of the base, only those are adapted")


def stored_modules(naming: Naming, shapes: Mapping[str, Shape]) -> dict[str, tuple[str, ...]]:
    """Canonical linear layers, without `.weight`, by the name of their module in the Hugging Face model."""
    found: dict[str, tuple[str, ...]] = {}
    for weight, shape in shapes.items():
        if len(shape) == 2 and weight != EMBEDDING:
            name = weight.removesuffix(".weight")
            module = _renamed(_fused(name, naming), naming)
            found[module] = (*found.get(module, ()), name)
    return found


def _fused(name: str, naming: Naming) -> str:
    for table in (naming.fused, naming.interleaved):
        for ending, parts in table.items():
            part = next((part for part in parts if name.endswith(part)), None)
            if part is not None:
                return name.removesuffix(part) + ending
    return name


def _renamed(name: str, naming: Naming) -> str:
    for canonical, stored in naming.renamed.items():
        pattern = re.escape(canonical).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
        if match := re.fullmatch(pattern, name):
            return stored.format(**match.groupdict())
    return name
