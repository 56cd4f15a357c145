"""The classifier of X-LoRA: from hidden states, how much of each adapter each token takes (Buehler & Buehler, 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .emit import Emit

CLASSIFIER = "xlora.classifier"  # its linears are xlora.classifier.0, .1, ...; the last one makes the scalings


@dataclass(frozen=True, slots=True)
class Classifier:
    """`depth` linears, those before the last of `size` outputs and followed by a ReLU where `relu` says so.

    `num_layers`: how many sets of scalings a token has, 1 where all adapted linears share one. `softmax`: over the
    adapters of a set, of logits / `temperature`. Then only the `top_k` largest stay, of equals the first, the others
    become 0 and nothing is normalized again, unless by `softmax_topk`: one more softmax over those that are not 0,
    which stay 0 (PEFT 0.21, XLoraLayer.get_maybe_topk_scalings).
    """

    hidden_size: int
    num_adapters: int
    num_layers: int = 1
    depth: int = 1
    size: int = 2048
    bias: bool = True
    relu: bool = False
    softmax: bool = True
    temperature: float = 1.0
    top_k: int | None = None
    softmax_topk: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of weights by canonical name: (N, K), biases (N,)."""
        widths = [self.hidden_size, *[self.size] * (self.depth - 1), self.num_layers * self.num_adapters]
        shapes: dict[str, tuple[int, ...]] = {}
        for i in range(self.depth):
            shapes[f"{CLASSIFIER}.{i}.weight"] = (widths[i + 1], widths[i])
            if self.bias:
                shapes[f"{CLASSIFIER}.{i}.bias"] = (widths[i + 1],)
        return shapes


def classifier(emit: Emit, spec: Classifier, hidden: ir.Value) -> ir.Value:
    """Scalings (T, num_layers, num_adapters) of hidden states after the final norm, (T, hidden); both float32.

    A row has the same bits in every batch of two rows or more; alone it may have others.
    """
    with emit.at(CLASSIFIER):
        logits = _logits(emit, spec, hidden)
        scalings = emit.op("Reshape", logits, emit.ints(-1, spec.num_layers, spec.num_adapters))
        if spec.softmax:
            scalings = emit.op("Softmax", _cooled(emit, spec, scalings), axis=-1)
        if spec.top_k is not None:
            scalings = _largest(emit, scalings, spec.top_k)
        return _softmax_of_nonzero(emit, scalings) if spec.softmax_topk else scalings


def _logits(emit: Emit, spec: Classifier, x: ir.Value) -> ir.Value:
    for i in range(spec.depth - 1):
        x = emit.linear(x, str(i))
        x = emit.op("Relu", x) if spec.relu else x
    return emit.linear(x, str(spec.depth - 1))


def _cooled(emit: Emit, spec: Classifier, logits: ir.Value) -> ir.Value:
    return logits if spec.temperature == 1.0 else emit.op("Div", logits, emit.const(np.float32(spec.temperature)))


def _largest(emit: Emit, scalings: ir.Value, count: int) -> ir.Value:
    values, chosen = emit.ops("TopK", 2, scalings, emit.ints(count), axis=-1)
    zeros = emit.op("Expand", emit.const(np.float32(0)), emit.op("Shape", scalings))
    return emit.op("ScatterElements", zeros, chosen, values, axis=-1)


def _softmax_of_nonzero(emit: Emit, scalings: ir.Value) -> ir.Value:
    zero = emit.const(np.float32(0))
    is_zero = emit.op("Equal", scalings, zero)
    shares = emit.op("Softmax", emit.op("Where", is_zero, emit.const(np.float32(-np.inf)), scalings), axis=-1)
    return emit.op("Where", is_zero, zero, shares)
