"""Mixtures of experts: each token passes through the few feed-forward blocks that its router chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir

from .emit import Emit
from .mlp import Gated, gated

Softmax = Literal["chosen", "all"]


@dataclass(frozen=True, slots=True)
class ClampedGated:
    """down((u + 1) · g · sigmoid(slope · g)), g = min(gate(x), limit), u = up(x) within ±limit (gpt-oss)."""

    intermediate_size: int
    limit: float
    slope: float

    def matrices(self, hidden_size: int) -> dict[str, tuple[int, int]]:
        """Names and shapes (N, K) of its weights."""
        wide, narrow = (self.intermediate_size, hidden_size), (hidden_size, self.intermediate_size)
        return {"gate_proj": wide, "up_proj": wide, "down_proj": narrow}


@dataclass(frozen=True, slots=True)
class MoE:
    """Σ weight · expert(x) over the experts with the largest logits gate(x), of equals the first (Shazeer, 2017).

    `softmax`: weights are a softmax over the logits of the chosen experts (the same as over all, renormalised), or over
    those of all experts, so that they sum to less than 1. `shared`: one more expert that all tokens pass through, its
    weight sigmoid(shared_expert_gate(x)) (Qwen2-MoE). Biases are added where the weights have them.
    """

    num_experts: int
    experts_per_token: int
    expert: Gated | ClampedGated
    softmax: Softmax = "chosen"
    shared: Gated | None = None

    def matrices(self, hidden_size: int) -> dict[str, tuple[int, int]]:
        """Names and shapes (N, K) of its weights."""
        parts = {f"experts.{e}": self.expert.matrices(hidden_size) for e in range(self.num_experts)}
        single = {"gate": (self.num_experts, hidden_size)}
        if self.shared:
            parts["shared_expert"] = self.shared.matrices(hidden_size)
            single["shared_expert_gate"] = (1, hidden_size)
        return single | {f"{part}.{name}": shape for part, names in parts.items() for name, shape in names.items()}


class Groups(NamedTuple):
    """The T · k visits of tokens to experts, sorted by expert, those of one expert by token.

    `tokens`: for each expert its rows of x. `used`: whether it has any. `places`: (T, k), where each visit went.
    """

    tokens: Sequence[ir.Value]
    used: Sequence[ir.Value]
    places: ir.Value


def moe(emit: Emit, spec: MoE, x: ir.Value) -> ir.Value:
    """x: (tokens, hidden), as linears take it, to float32. Experts that no token chose do not run."""
    weights, chosen = route(emit, spec, x)
    groups = group(emit, spec, chosen)
    visits = emit.wide(emit.op("Gather", _visits(emit, spec, x, groups), groups.places))  # (tokens, k, hidden)
    weighed = emit.op("Mul", visits, emit.op("Unsqueeze", weights, emit.ints(2)))
    k = spec.experts_per_token
    summands = emit.ops("Split", k, weighed, emit.ints(*[1] * k), axis=1)
    mixed = emit.op("Squeeze", emit.op("Sum", *summands), emit.ints(1))  # in the same order for every shape
    return mixed if spec.shared is None else emit.op("Add", mixed, _shared(emit, spec.shared, x))


def route(emit: Emit, spec: MoE, x: ir.Value) -> Sequence[ir.Value]:
    """Weights and numbers of the chosen experts, both (tokens, k), the largest first."""
    logits, k = emit.wide(emit.linear(x, "gate")), emit.ints(spec.experts_per_token)
    if spec.softmax == "all":
        return emit.ops("TopK", 2, emit.op("Softmax", logits, axis=-1), k)
    largest, chosen = emit.ops("TopK", 2, logits, k)
    return emit.op("Softmax", largest, axis=-1), chosen


def group(emit: Emit, spec: MoE, chosen: ir.Value) -> Groups:
    """`chosen`: int64 (tokens, k), no expert twice in a row."""
    experts, k, one = spec.num_experts, emit.ints(spec.experts_per_token), emit.ints(1)
    visited = emit.op("Reshape", chosen, emit.ints(-1))
    total = emit.op("Shape", visited)
    visit = emit.op("Range", emit.const(np.int64(0)), emit.op("Size", visited), emit.const(np.int64(1)))
    keys = emit.op("Add", emit.op("Mul", visited, total), visit)  # no two are equal
    order = emit.ops("TopK", 2, keys, total, largest=0)[1]
    places = emit.op("ScatterElements", order, order, visit)
    ones, zeros = emit.op("Expand", one, total), emit.ints(*[0] * experts)
    counts = emit.op("ScatterElements", zeros, visited, ones, reduction="add")
    used = emit.op("Greater", counts, emit.ints(0))
    return Groups(
        emit.ops("Split", experts, emit.op("Div", order, k), counts),
        emit.ops("Split", experts, used, emit.ints(*[1] * experts)),
        emit.op("Reshape", places, emit.ints(-1, spec.experts_per_token)),
    )


def _visits(emit: Emit, spec: MoE, x: ir.Value, groups: Groups) -> ir.Value:
    """What experts make of their tokens, (tokens · k, hidden), in the order of `groups`."""
    nothing = emit.op("Gather", x, emit.ints())
    made = []
    for e, (tokens, used) in enumerate(zip(groups.tokens, groups.used, strict=True)):
        with emit.at(f"experts.{e}"):
            made.append(emit.when(used, partial(_visit, emit, spec.expert, x, tokens), nothing))
    return emit.op("Concat", *made, axis=0)


def _visit(emit: Emit, spec: Gated | ClampedGated, x: ir.Value, tokens: ir.Value) -> ir.Value:
    if emit.row_multiple is None:
        return _expert(emit, spec, x, tokens)
    count, start = emit.op("Shape", tokens), emit.ints(0)
    odd = emit.op("Mod", count, emit.row_multiple)
    even = emit.op("Concat", tokens, emit.op("Slice", tokens, start, odd), axis=0)  # an odd count repeats its first
    return emit.op("Slice", _expert(emit, spec, x, even), start, count)


def _expert(emit: Emit, spec: Gated | ClampedGated, x: ir.Value, tokens: ir.Value) -> ir.Value:
    rows = emit.op("Gather", x, tokens)
    with emit.of(tokens):
        return gated(emit, spec, rows) if isinstance(spec, Gated) else clamped_gated(emit, spec, rows)


def clamped_gated(emit: Emit, spec: ClampedGated, x: ir.Value) -> ir.Value:
    one, limit, least = (emit.const(np.asarray(value, emit.dtype)) for value in (1, spec.limit, -spec.limit))
    both = emit.linear(x, "gate_proj", "up_proj")
    gate, up = emit.ops("Split", 2, both, emit.ints(spec.intermediate_size, spec.intermediate_size), axis=-1)
    swish = emit.contrib("QuickGelu", emit.op("Clip", gate, None, limit), alpha=spec.slope)  # g · sigmoid(slope · g)
    lifted = emit.op("Add", emit.op("Clip", up, least, limit), one)
    return emit.linear(emit.op("Mul", lifted, swish), "down_proj")


def _shared(emit: Emit, spec: Gated, x: ir.Value) -> ir.Value:
    with emit.at("shared_expert"):
        y = emit.wide(gated(emit, spec, x))
    return emit.op("Mul", y, emit.op("Sigmoid", emit.wide(emit.linear(x, "shared_expert_gate"))))
