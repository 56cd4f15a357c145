"""Attention with grouped heads and rotary positions; where keys and values are kept is the cache's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from .emit import Emit
from .norm import Norm, norm
from .rotary import LongRope, Rope, rotate


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """Queries and keys are normed head by head, before they turn (Dehghani et al., 2023)."""

    norm: Norm


@dataclass(frozen=True, slots=True)
class JointNorm:
    """Queries are normed over all heads together, and keys too (OLMo 2)."""

    norm: Norm


@dataclass(frozen=True, slots=True)
class Attention:
    """Softmax(q · kᵀ · scale) · v, causal, with `num_heads` query heads over `num_kv_heads` (Ainslie et al., 2023).

    `rope`: None for a layer without positions. `window`: how many keys a query sees, itself included. `softcap`: scores
    become softcap · tanh(score / softcap). `sinks`: each head has a score that takes part in the softmax and has no
    value (Xiao et al., 2023).
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    rope: Rope | LongRope | None
    scale: float
    window: int | None = None
    softcap: float | None = None
    norm: HeadNorm | JointNorm | None = None
    sinks: bool = False

    def shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its weights; matrices are (N, K)."""
        queries, keys = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "q_proj.weight": (queries, hidden_size),
            "k_proj.weight": (keys, hidden_size),
            "v_proj.weight": (keys, hidden_size),
            "o_proj.weight": (hidden_size, queries),
        }
        if self.sinks:
            shapes["sinks.weight"] = (self.num_heads,)
        match self.norm:
            case HeadNorm():
                shapes |= {"q_norm.weight": (self.head_size,), "k_norm.weight": (self.head_size,)}
            case JointNorm():
                shapes |= {"q_norm.weight": (queries,), "k_norm.weight": (keys,)}
        return shapes

    @property
    def turns_inside(self) -> bool:
        """Whether the operator turns queries and keys itself: it has one table and wants multiples of 16."""
        return isinstance(self.rope, Rope) and not self.head_size % 16 and not (2 * len(self.rope.frequencies)) % 16

    @property
    def cached_size(self) -> int:
        """Elements of a head in the cache: zeros fill it up to the multiple of 8 that the operator wants."""
        return -(-self.head_size // 8) * 8


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of a batch attention sees. `total`: int32 scalar, an upper bound of seqlens_k + 1.

    `position_ids`: int64 (batch, rows), or consecutive ones. `bias`: float32 (batch, 1, rows, total), added to scores.
    """

    seqlens_k: ir.Value
    total: ir.Value
    query_seqlens: ir.Value | None = None
    position_ids: ir.Value | None = None
    bias: ir.Value | None = None


class Cache(Protocol):
    """Inputs of a graph, and how its attention reaches keys and values of earlier tokens."""

    ids: ir.Value  # (tokens,)

    def positions(self, rope: Rope | LongRope) -> ir.Value:
        """int64 (1, tokens): rows of the rotary table."""

    def tables(self, rope: Rope | LongRope) -> tuple[ir.Value, ir.Value]:
        """Cosines and sines, (rows, rotary dim / 2) each, of the type that linears give."""

    def attend(self, spec: Attention, layer: int, qkv: ir.Value, sinks: ir.Value | None) -> ir.Value:
        """(tokens, (heads + 2 kv_heads) · cached head) to (tokens, heads · cached head)."""

    def wanted(self, hidden: ir.Value) -> ir.Value:
        """The positions whose logits are wanted."""


def attention(emit: Emit, spec: Attention, x: ir.Value, cache: Cache, layer: int) -> ir.Value:
    """x and the result are what linears take and give."""
    qkv = emit.linear(x, "q_proj", "k_proj", "v_proj")
    if spec.norm is not None:
        qkv = _normed(emit, spec, spec.norm, qkv)
    if spec.rope is not None and not spec.turns_inside:
        qkv = _turned(emit, spec, spec.rope, qkv, cache)
    sinks = emit.vector("sinks.weight") if spec.sinks else None
    heads = cache.attend(spec, layer, _filled(emit, spec, qkv), sinks)
    return emit.linear(_unfilled(emit, spec, heads), "o_proj")


def _normed(emit: Emit, spec: Attention, kind: HeadNorm | JointNorm, qkv: ir.Value) -> ir.Value:
    heads, kv_heads = spec.num_heads, spec.num_kv_heads
    if isinstance(kind, JointNorm):
        q, k, v = emit.ops(
            "Split", 3, qkv, emit.ints(*(n * spec.head_size for n in (heads, kv_heads, kv_heads))), axis=1
        )
        return emit.op("Concat", _norm(emit, kind.norm, q, "q_norm"), _norm(emit, kind.norm, k, "k_norm"), v, axis=1)
    apart = emit.op("Reshape", qkv, emit.ints(0, heads + 2 * kv_heads, spec.head_size))
    q, k, v = emit.ops("Split", 3, apart, emit.ints(heads, kv_heads, kv_heads), axis=1)
    both = emit.op("Concat", _norm(emit, kind.norm, q, "q_norm"), _norm(emit, kind.norm, k, "k_norm"), v, axis=1)
    return emit.op("Reshape", both, emit.ints(0, (heads + 2 * kv_heads) * spec.head_size))


def _norm(emit: Emit, kind: Norm, x: ir.Value, name: str) -> ir.Value:
    return emit.narrow(norm(emit, kind, emit.wide(x), name))


def _turned(emit: Emit, spec: Attention, rope: Rope | LongRope, qkv: ir.Value, cache: Cache) -> ir.Value:
    """With queries and keys turned here, for positions and sizes that the attention operator does not know."""
    num_turned = spec.num_heads + spec.num_kv_heads
    sizes = emit.ints(num_turned * spec.head_size, spec.num_kv_heads * spec.head_size)
    qk, v = emit.ops("Split", 2, qkv, sizes, axis=1)
    turned = rotate(emit, rope, qk, num_turned, spec.head_size, cache.positions(rope), cache.tables(rope))
    return emit.op("Concat", turned, v, axis=1)


def _filled(emit: Emit, spec: Attention, qkv: ir.Value) -> ir.Value:
    missing = spec.cached_size - spec.head_size
    if not missing:
        return qkv
    num_heads = spec.num_heads + 2 * spec.num_kv_heads
    apart = emit.op("Reshape", qkv, emit.ints(0, num_heads, spec.head_size))
    wider = emit.op("Pad", apart, emit.ints(0, 0, 0, 0, 0, missing), emit.const(np.zeros((), emit.dtype)))
    return emit.op("Reshape", wider, emit.ints(0, num_heads * spec.cached_size))


def _unfilled(emit: Emit, spec: Attention, heads: ir.Value) -> ir.Value:
    if spec.cached_size == spec.head_size:
        return heads
    apart = emit.op("Reshape", heads, emit.ints(0, spec.num_heads, spec.cached_size))
    narrow = emit.op("Slice", apart, emit.ints(0), emit.ints(spec.head_size), emit.ints(2))
    return emit.op("Reshape", narrow, emit.ints(0, spec.num_heads * spec.head_size))
