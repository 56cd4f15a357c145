"""Rotary positions: their specs, their tables, and turning heads outside of the attention operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mistralrs_onnx.ops.rope import RotaryTables

from .emit import Emit


@dataclass(frozen=True, slots=True)
class Rope:
    """Elements i and i + dim / 2 of a head turn by position · frequencies[i]; those from dim on stay (Su et al., 2021).

    `scale` multiplies what was turned (YaRN, Peng et al., 2023).
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class LongRope:
    """Two sets of frequencies: `short` for sequences of up to `original_length` tokens, `long` for longer ones
    (Ding et al., 2024). Its table has the rows of the short ones, then those of the long ones.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    scale: float
    original_length: int


class Tables:
    """Rotary tables of a graph, each drawn once."""

    def __init__(self, emit: Emit, rows: int) -> None:
        self._emit = emit
        self.rows = rows
        self._drawn: dict[Rope | LongRope, tuple[ir.Value, ir.Value]] = {}

    def of(self, rope: Rope | LongRope) -> tuple[ir.Value, ir.Value]:
        """Cosines and sines, (rows, dim / 2) each; twice as many rows for two sets of frequencies."""
        if rope not in self._drawn:
            self._drawn[rope] = self._draw(rope)
        return self._drawn[rope]

    def _draw(self, rope: Rope | LongRope) -> tuple[ir.Value, ir.Value]:
        if isinstance(rope, Rope):
            return self._table(rope.frequencies, rope.scale)
        short, long = (self._table(frequencies, rope.scale) for frequencies in (rope.short, rope.long))
        cos, sin = (self._emit.op("Concat", *parts, axis=0) for parts in zip(short, long, strict=True))
        return cos, sin

    def _table(self, frequencies: tuple[float, ...], scale: float) -> tuple[ir.Value, ir.Value]:
        values = self._emit.const(np.array(frequencies, np.float64))
        cos, sin = self._emit.call(RotaryTables, values, num_outputs=2, rows=self.rows)
        if scale == 1.0:
            return cos, sin
        factor = self._emit.const(np.float32(scale))
        return self._emit.op("Mul", cos, factor), self._emit.op("Mul", sin, factor)


def rotate(
    emit: Emit,
    rope: Rope | LongRope,
    x: ir.Value,
    num_heads: int,
    head_size: int,
    positions: ir.Value,
    tables: tuple[ir.Value, ir.Value],
) -> ir.Value:
    """x: (tokens, num_heads · head_size); positions: int64 (1, tokens), rows of the tables."""
    turning = 2 * len(rope.frequencies if isinstance(rope, Rope) else rope.short)
    batch = emit.op("Unsqueeze", x, emit.ints(0))
    partial = (
        {"num_heads": num_heads, "rotary_embedding_dim": turning} if turning < head_size else {"num_heads": num_heads}
    )
    turned = emit.contrib("RotaryEmbedding", batch, positions, *tables, **partial)
    return emit.op("Squeeze", turned, emit.ints(0))
