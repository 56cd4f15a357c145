"""From the names of a checkpoint to the canonical ones, which are those of Llama in Hugging Face checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .errors import CompileError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Naming:
    """How a kind of checkpoint of an architecture departs from canonical names and rows.

    `renamed`: stored name of each canonical name that is another, without `.weight`, which the canonical one has where
    the stored one has no ending; `{i}` is the layer, `{e}` the expert. `fused`: canonical endings that lie on top of
    each other in one stored matrix, by the ending of that; `interleaved`: the same, row by row in turn. `permuted`:
    endings whose rows are stored in adjacent pairs of each head. `transposed`: endings stored as (K, N). `raised`:
    endings of vectors that are stored less 1.
    `ignored`: endings of stored names that say nothing about the model.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    interleaved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    permuted: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    raised: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq", "rope_freqs.weight")


class Place(NamedTuple):
    """Where a canonical weight lies. `expert`: its place on the first axis of a tensor that holds all experts.

    `siblings`: canonical names of all that share the tensor, in order; `kind` says how.
    """

    stored: str
    expert: int | None
    siblings: tuple[str, ...]
    is_interleaved: bool


def places(tensors: Mapping[str, Shape], naming: Naming) -> dict[str, Place]:
    """Canonical name, with its `.weight` or `.bias`, to place. Names that nothing is known about stay as they are.

    Raises CompileError when two tensors are the same weight.
    """
    patterns = [(_pattern(stored), canonical) for canonical, stored in naming.renamed.items()]
    found: dict[str, Place] = {}
    for stored, shape in tensors.items():
        if stored.endswith(naming.ignored):
            continue
        base, kind = _apart(stored)
        base = _renamed(base, patterns)
        base, kind = (base, kind) if kind else _apart(base)
        for expert, name in _experts(base, shape, kind):
            siblings, is_interleaved = _siblings(name, kind, naming)
            for each in siblings:
                if each in found:
                    raise CompileError(f"tensors {found[each].stored} and {stored} are both {each}: which is not clear")
                found[each] = Place(stored, expert, siblings if len(siblings) > 1 else (), is_interleaved)
    return found


def _apart(name: str) -> tuple[str, str]:
    """A name and its `.weight`, `.bias` or nothing."""
    for kind in (".weight", ".bias"):
        if name.endswith(kind):
            return name.removesuffix(kind), kind
    return name, ""


def _pattern(stored: str) -> re.Pattern[str]:
    named = re.escape(stored).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
    return re.compile(named)


def _renamed(base: str, patterns: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, canonical in patterns:
        if match := pattern.fullmatch(base):
            return canonical.format(**match.groupdict())
    return base


def _experts(base: str, shape: Shape, kind: str) -> Iterator[tuple[int | None, str]]:
    """One tensor of all experts has one more axis than a weight."""
    before, experts, name = base.rpartition(".experts.")
    if not experts or re.match(r"\d+\.", name) or len(shape) != (2 if kind == ".bias" else 3):
        yield None, base
        return
    for expert in range(shape[0]):
        yield expert, f"{before}.experts.{expert}.{name}"


def _siblings(base: str, kind: str, naming: Naming) -> tuple[tuple[str, ...], bool]:
    for table in (naming.fused, naming.interleaved):
        for ending, parts in table.items():
            if base.endswith(ending):
                front = base.removesuffix(ending)
                return tuple(f"{front}{part}{kind}" for part in parts), table is naming.interleaved
    return (f"{base}{kind}",), False
