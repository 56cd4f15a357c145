"""Attention with grouped heads and rotary positions; where keys and values are kept is the cache's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from mistralrs_onnx.ops.rope import RotaryTables

from .emit import Emit


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: element i and i + dim / 2 of a head turn by position · frequencies[i]."""

    frequencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Attention:
    """Softmax(q · kᵀ · scale) · v, causal, with `num_heads` query heads over `num_kv_heads` (Ainslie et al., 2023)."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    rope: Rope
    scale: float

    def matrices(self, hidden_size: int) -> dict[str, tuple[int, int]]:
        """Names and shapes (N, K) of its weights."""
        queries, keys = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        return {
            "q_proj": (queries, hidden_size),
            "k_proj": (keys, hidden_size),
            "v_proj": (keys, hidden_size),
            "o_proj": (hidden_size, queries),
        }


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

    def attend(self, spec: Attention, layer: int, qkv: ir.Value) -> ir.Value:
        """(tokens, (heads + 2 kv_heads) · head) to (tokens, heads · head)."""

    def wanted(self, hidden: ir.Value) -> ir.Value:
        """The positions whose logits are wanted."""


def attention(emit: Emit, spec: Attention, x: ir.Value, cache: Cache, layer: int) -> ir.Value:
    return emit.linear(cache.attend(spec, layer, emit.linear(x, "q_proj", "k_proj", "v_proj")), "o_proj")


def rotary_tables(emit: Emit, spec: Rope, rows: int) -> tuple[ir.Value, ir.Value]:
    frequencies = emit.const(np.array(spec.frequencies, np.float64))
    cos, sin = emit.call(RotaryTables, frequencies, num_outputs=2, rows=rows)
    return cos, sin
