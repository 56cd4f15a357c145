"""Adapters as lanes of the serving graph want them: packed once, never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs.contract import LORA_BLOCK, LoraGroup, Update, Updates

from .errors import RequestError

Float32 = NDArray[np.float32]


class Packed(NamedTuple):
    """Of one group, a as (linears, blocks, K, 16), and b of each linear as (blocks · 16, N); zeros fill up."""

    a: Float32
    bs: tuple[Float32, ...]

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + sum(b.nbytes for b in self.bs)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Adapter:
    """`generation`: names its contents, so that two of one name are told apart. `blocks`: of its rank, 16 each.

    `groups`: what it adapts, by number of the group.
    """

    name: str
    generation: str
    rank: int
    blocks: int
    groups: Mapping[int, Packed]
    parent: str | None = None  # the base model that it says it belongs to

    @property
    def nbytes(self) -> int:
        return sum(packed.nbytes for packed in self.groups.values())


def pack_adapter(
    name: str, generation: str, updates: Updates, groups: Sequence[LoraGroup], parent: str | None = None
) -> Adapter:
    """Raises RequestError for updates that do not fit the groups."""
    known = {linear for group in groups for linear in group.linears}
    for linear in updates:
        if linear not in known:
            message = f"adapter {name!r} changes {linear}, which can only be merged into this model when it is compiled"
            raise RequestError(message, code="unsupported_adapter", param="adapters")
    if not updates:
        raise RequestError(f"adapter {name!r} changes nothing", code="invalid_adapter", param="adapters")
    rank = max(len(update.a) for update in updates.values())
    blocks = -(-rank // LORA_BLOCK)
    adapted = {i: group for i, group in enumerate(groups) if not updates.keys().isdisjoint(group.linears)}
    packed = {i: _packed(name, updates, group, blocks) for i, group in adapted.items()}
    return Adapter(name, generation, rank, blocks, packed, parent)


def combine(parts: Sequence[tuple[Adapter, float]]) -> Adapter:
    """Σ weight · adapter, as one adapter whose rank is the sum of theirs."""
    indices = sorted({index for adapter, _ in parts for index in adapter.groups})
    names = [f"{adapter.name}:{weight:g}" for adapter, weight in parts]
    digest = hashlib.sha256()
    for adapter, weight in parts:
        digest.update(f"{adapter.generation} {weight!r}\n".encode())
    groups = {index: _side_by_side(index, parts) for index in indices}
    blocks, rank = sum(adapter.blocks for adapter, _ in parts), sum(adapter.rank for adapter, _ in parts)
    return Adapter("+".join(names), digest.hexdigest(), rank, blocks, groups)


def _packed(name: str, updates: Updates, group: LoraGroup, blocks: int) -> Packed:
    a = np.zeros((len(group.linears), blocks, group.in_features, LORA_BLOCK), np.float32)
    bs = tuple(np.zeros((blocks * LORA_BLOCK, width), np.float32) for width in group.out_features)
    for i, (linear, width) in enumerate(zip(group.linears, group.out_features, strict=True)):
        if linear in updates:
            _check(name, linear, updates[linear], (width, group.in_features))
            rank = len(updates[linear].a)
            ranks = np.zeros((blocks * LORA_BLOCK, group.in_features), np.float32)
            ranks[:rank] = updates[linear].a
            a[i] = ranks.reshape(blocks, LORA_BLOCK, -1).swapaxes(1, 2)
            bs[i][:rank] = updates[linear].b.T
    return Packed(a, bs)


def _check(name: str, linear: str, update: Update, shape: tuple[int, int]) -> None:
    (rank, columns), (rows, b_rank) = update.a.shape, update.b.shape
    if (rows, columns) != shape or rank != b_rank:
        message = f"adapter {name!r} has a {update.a.shape} and b {update.b.shape} for {linear}, which is {shape}"
        raise RequestError(f"{message}: it belongs to another model", code="invalid_adapter", param="adapters")
    if not (np.isfinite(update.a).all() and np.isfinite(update.b).all()):
        message = f"adapter {name!r} has values for {linear} that are not finite: it is damaged"
        raise RequestError(message, code="invalid_adapter", param="adapters")


def _side_by_side(index: int, parts: Iterable[tuple[Adapter, float]]) -> Packed:
    """Of the parts that lack the group, nothing but zeros."""
    parts = list(parts)
    like = next(adapter.groups[index] for adapter, _ in parts if index in adapter.groups)
    each = [_weighed(adapter.groups.get(index), like, adapter.blocks, weight) for adapter, weight in parts]
    a = np.concatenate([packed.a for packed in each], axis=1)
    return Packed(a, tuple(np.concatenate(bs) for bs in zip(*(packed.bs for packed in each), strict=True)))


def _weighed(packed: Packed | None, like: Packed, blocks: int, weight: float) -> Packed:
    if packed is None:
        linears, _, width, _ = like.a.shape
        zeros = tuple(np.zeros((blocks * LORA_BLOCK, b.shape[1]), np.float32) for b in like.bs)
        return Packed(np.zeros((linears, blocks, width, LORA_BLOCK), np.float32), zeros)
    return Packed(packed.a, tuple(b * np.float32(weight) for b in packed.bs))
