"""X-LoRA: adapters that are part of the model, mixed by scalings of each token (Buehler & Buehler, 2024).

y = W · x + Σ bᵢ · (aᵢ · (scalingᵢ · x)). Tokens pass twice: first with no adapters or all of them alike, for hidden
states that a classifier makes scalings of, then with these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mistralrs_onnx.ops.formats import Bytes

from . import contract
from .classifier import Classifier, classifier
from .contract import Updates
from .emit import Emit
from .weights import Matrix, Weights

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class XLora:
    """`weights`: of the classifier, by canonical name. `layers`: which set of scalings each adapted linear takes."""

    classifier: Classifier
    weights: Mapping[str, Float32]
    adapters: tuple[Updates, ...]
    layers: Mapping[str, int]

    def ranks(self, linear: str) -> list[int]:
        """Of each adapter; 0 where it leaves the linear alone."""
        return [len(updates[linear].a) if linear in updates else 0 for updates in self.adapters]


@dataclass(frozen=True, slots=True)
class InMemory:
    """A matrix of float32."""

    values: Float32

    @property
    def format(self) -> str:
        return "F32"

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    def rows(self, start: int, stop: int) -> Bytes:
        return np.ascontiguousarray(self.values[start:stop]).view(np.uint8)


class WithXLora:
    """Weights of a model and those of its X-LoRA: a and b of all adapters on top of each other, and the classifier."""

    def __init__(self, weights: Weights, xlora: XLora) -> None:
        self._weights = weights
        self.own: dict[str, Float32] = dict(_weights(xlora)) | dict(xlora.weights)

    def __contains__(self, name: str) -> bool:
        return name in self.own or name in self._weights

    def matrix(self, name: str) -> Matrix:
        return InMemory(self.own[name]) if name in self.own else self._weights.matrix(name)

    def vector(self, name: str) -> Float32:
        return self.own[name] if name in self.own else self._weights.vector(name)


def _weights(xlora: XLora) -> Iterator[tuple[str, Float32]]:
    for linear in xlora.layers:
        updates = [adapter[linear] for adapter in xlora.adapters if linear in adapter]
        yield f"{linear}.lora_A.weight", np.concatenate([a for a, _ in updates])
        yield f"{linear}.lora_B.weight", np.concatenate([b for _, b in updates], axis=1)


class Scaled:
    """Adds all adapters to the linears, each by its scaling of the token."""

    def __init__(self, emit: Emit, xlora: XLora) -> None:
        self._xlora = xlora
        num_adapters, num_layers = xlora.classifier.num_adapters, xlora.classifier.num_layers
        shape: list[int | str] = ["tokens", num_layers, num_adapters]
        scalings = emit.input(contract.SCALINGS, ir.DataType.FLOAT, shape)
        self._is_scaled = emit.input(contract.IS_SCALED, ir.DataType.BOOL, [1])
        self._wanted = emit.input(contract.SCALING_INDEX, ir.DataType.INT64, ["scaled_tokens"])
        self._scalings = emit.op("Reshape", scalings, emit.ints(0, num_layers * num_adapters))

    def adapt(self, emit: Emit, linears: tuple[str, ...], x: ir.Value, y: ir.Value) -> ir.Value:
        if not any(linear in self._xlora.layers for linear in linears):
            return y
        nothing = [np.zeros(1, np.float32)]
        return emit.op("Add", y, *emit.if_any(self._is_scaled, lambda: [self._updates(emit, linears, x)], nothing))

    def finish(self, emit: Emit, hidden: ir.Value) -> None:
        """`hidden`: states after the final norm, of all tokens."""
        wanted = emit.op("Gather", hidden, self._wanted)
        spec = self._xlora.classifier
        shape: list[int | str] = ["scaled_tokens", spec.num_layers, spec.num_adapters]
        emit.output(classifier(emit, spec, wanted), contract.NEXT_SCALINGS, ir.DataType.FLOAT, shape)

    def _updates(self, emit: Emit, linears: Sequence[str], x: ir.Value) -> ir.Value:
        scope = emit.path("")
        adapted = [linear for linear in linears if linear in self._xlora.layers]
        names = [linear.removeprefix(scope) for linear in adapted]
        columns = emit.linear(x, *(f"{name}.lora_A" for name in names))
        scaled = emit.op("Mul", columns, self._columns(emit, adapted))
        widths = [sum(self._xlora.ranks(linear)) for linear in adapted]
        parts = [scaled] if len(adapted) == 1 else emit.ops("Split", len(adapted), scaled, emit.ints(*widths), axis=1)
        updates = {
            linear: emit.linear(part, f"{name}.lora_B")
            for linear, name, part in zip(adapted, names, parts, strict=True)
        }
        each = [updates.get(linear) or _zeros(emit, x, emit.shape(linear)[0]) for linear in linears]
        return each[0] if len(each) == 1 else emit.op("Concat", *each, axis=1)

    def _columns(self, emit: Emit, linears: Sequence[str]) -> ir.Value:
        """The scaling of each column of x · a, (rows, ranks of all adapters of all these linears)."""
        count = self._xlora.classifier.num_adapters
        index = [
            np.repeat(self._xlora.layers[linear] * count + np.arange(count), self._xlora.ranks(linear))
            for linear in linears
        ]
        scalings = self._scalings if emit.tokens is None else emit.op("Gather", self._scalings, emit.tokens)
        return emit.op("Gather", scalings, emit.const(np.concatenate(index)), axis=1)


def _zeros(emit: Emit, x: ir.Value, width: int) -> ir.Value:
    rows = emit.op("Slice", emit.op("Shape", x), emit.ints(0), emit.ints(1))
    return emit.op("Expand", emit.const(np.float32(0)), emit.op("Concat", rows, emit.ints(width), axis=0))
