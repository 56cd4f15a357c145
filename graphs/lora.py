"""Adapters that are inputs of the graph: each token has its own, or none (Hu et al., 2021; Chen et al., 2023, Punica).

A lane is an adapter and the rows of its tokens. Each group of linears that share an input gets one branch, which runs
only where a lane adapts the group: x · a for all lanes at once, then b of each linear, added to the rows in question.
Neither the number of lanes nor of their rows changes a bit of a row: lanes are products of their own, of two rows or
more, with ranks in zero-filled blocks of 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from . import contract
from .contract import LORA_BLOCK, LoraGroup
from .emit import Emit

MAX_EXPERTS = 16  # more would need too many inputs


class Recorded:
    """Changes nothing, and remembers which linears there are to adapt."""

    def __init__(self) -> None:
        self._groups: list[LoraGroup] = []

    @property
    def groups(self) -> tuple[LoraGroup, ...]:
        """Experts are among them only where they are few."""
        num_experts = len({_expert(group.linears[0]) for group in self._groups if group.is_expert})
        return tuple(group for group in self._groups if not group.is_expert or num_experts <= MAX_EXPERTS)

    def adapt(self, emit: Emit, linears: tuple[str, ...], x: ir.Value, y: ir.Value) -> ir.Value:
        if linears[0].startswith("model.layers."):
            shapes = [emit.shape(linear) for linear in linears]
            out_features = tuple(rows for rows, _ in shapes)
            self._groups.append(LoraGroup(linears, shapes[0][1], out_features, emit.tokens is not None))
        return y


def _expert(linear: str) -> str:
    return linear.partition(".experts.")[2].partition(".")[0]


class _Inputs(NamedTuple):
    """Of one group: whether it is adapted, a, and b for each linear."""

    used: ir.Value
    a: ir.Value
    bs: Sequence[ir.Value]


class Routed:
    """Adds each lane's updates to the rows of its tokens."""

    def __init__(self, emit: Emit, groups: Sequence[LoraGroup]) -> None:
        used = emit.input(contract.LORA_USED, ir.DataType.BOOL, [len(groups)])
        self._tokens = emit.input(contract.LORA_TOKENS, ir.DataType.INT64, ["lanes", "lane_rows"])
        self._places = emit.input(contract.LORA_PLACES, ir.DataType.INT64, ["lane_tokens"])
        self._rows = emit.input(contract.LORA_ROWS, ir.DataType.INT64, ["lane_tokens", 1])
        if any(group.is_expert for group in groups):
            self._lane = emit.input(contract.LORA_LANE, ir.DataType.INT64, ["tokens"])
        each = emit.ops("Split", len(groups), used, emit.ints(*[1] * len(groups)))
        self._inputs = {group.linears: _inputs(emit, group, one) for group, one in zip(groups, each, strict=True)}
        self._groups = {group.linears: group for group in groups}

    def adapt(self, emit: Emit, linears: tuple[str, ...], x: ir.Value, y: ir.Value) -> ir.Value:
        group = self._groups.get(linears)
        if group is None:
            return y
        inputs, width = self._inputs[linears], sum(group.out_features)
        if emit.tokens is not None:
            draw = partial(self._of_experts, emit, inputs, x, emit.tokens)
            return emit.op("Add", y, *emit.if_any(inputs.used, draw, [np.zeros(1, np.float32)]))
        nothing: list[NDArray[np.generic]] = [np.empty((0, width), np.float32), np.empty((0, 1), np.int64)]
        updates, rows = emit.if_any(inputs.used, partial(self._of_lanes, emit, inputs, x, width), nothing)
        return emit.op("ScatterND", y, rows, updates, reduction="add")  # in the memory of y

    def _of_lanes(self, emit: Emit, inputs: _Inputs, x: ir.Value, width: int) -> Sequence[ir.Value]:
        """Updates of the tokens that have a lane (P, width), and which they are (P, 1)."""
        rows = emit.op("Gather", x, self._tokens)  # (G, M, K)
        products = _products(emit, inputs, emit.op("Unsqueeze", rows, emit.ints(1)))
        flat = emit.op("Reshape", products, emit.ints(-1, width))
        return emit.op("Gather", flat, self._places), emit.op("Identity", self._rows)

    def _of_experts(self, emit: Emit, inputs: _Inputs, x: ir.Value, tokens: ir.Value) -> Sequence[ir.Value]:
        """Updates of some tokens, (rows, width): all lanes run over all rows, and each row takes those of its lane."""
        products = _products(emit, inputs, emit.op("Unsqueeze", x, emit.ints(0, 1)))  # (G, rows, width)
        lane = emit.op("Unsqueeze", emit.op("Gather", self._lane, tokens), emit.ints(1))
        own = emit.op("GatherND", emit.op("Transpose", products, perm=[1, 0, 2]), lane, batch_dims=1)
        has_one = emit.op("GreaterOrEqual", lane, emit.ints(0))
        return [emit.op("Where", has_one, own, emit.const(np.float32(0)))]


class Overridable:
    """For hosts that replace initializers: an a (K, rank) and a b (rank, N) for each linear, of rank 0 else."""

    def __init__(self, groups: Sequence[LoraGroup]) -> None:
        self._groups = {group.linears: group for group in groups}

    def adapt(self, emit: Emit, linears: tuple[str, ...], x: ir.Value, y: ir.Value) -> ir.Value:
        group = self._groups.get(linears)
        if group is None:
            return y
        updates = []
        for linear, width in zip(linears, group.out_features, strict=True):
            columns, rank = group.in_features, f"{linear}.rank"
            a = emit.overridable(f"{linear}.lora_A", np.empty((columns, 0), np.float32), [columns, rank])
            b = emit.overridable(f"{linear}.lora_B", np.empty((0, width), np.float32), [rank, width])
            updates.append(emit.op("MatMul", emit.op("MatMul", x, a), b))
        return emit.op("Add", y, updates[0] if len(updates) == 1 else emit.op("Concat", *updates, axis=-1))


def _inputs(emit: Emit, group: LoraGroup, used: ir.Value) -> _Inputs:
    names = contract.lora_inputs(group)
    a = emit.input(names[0], ir.DataType.FLOAT, ["lanes", None, group.in_features, LORA_BLOCK])
    bs = [
        emit.input(name, ir.DataType.FLOAT, ["lanes", None, width])
        for name, width in zip(names[1:], group.out_features, strict=True)
    ]
    return _Inputs(used, a, bs)


def _products(emit: Emit, inputs: _Inputs, x: ir.Value) -> ir.Value:
    """x · a · b, linears side by side: (G or 1, 1, M, K) to (G, M, width)."""
    count = len(inputs.bs)
    blocks = emit.op("MatMul", x, inputs.a)  # (G, linears · blocks, M, 16)
    rows = emit.op("Transpose", blocks, perm=[0, 2, 1, 3])
    if count == 1:
        return emit.op("MatMul", emit.op("Reshape", rows, emit.ints(0, 0, -1)), inputs.bs[0])
    ranks = emit.op("Reshape", rows, emit.ints(0, 0, count, -1))  # (G, M, linears, rank)
    parts = [emit.op("Gather", ranks, emit.const(np.int64(i)), axis=2) for i in range(count)]
    return emit.op("Concat", *(emit.op("MatMul", *each) for each in zip(parts, inputs.bs, strict=True)), axis=-1)
