"""X-LoRA written out in numpy, float64: from hidden states to scalings, and from scalings to outputs of linears."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Expert(NamedTuple):
    """One adapter of one linear: A (r, K), B (N, r), and alpha / r."""

    a: NDArray[Any]
    b: NDArray[Any]
    scale: float


def scalings(
    hidden: NDArray[Any],
    linears: Sequence[tuple[NDArray[Any], NDArray[Any] | None]],
    config: Mapping[str, Any],
    num_layers: int,
) -> Array:
    """Hidden states (T, H) to (T, num_layers, N), by the keys of xlora_config.json. `linears`: weight and bias.

    Without layerwise_scalings every layer gets the same.
    """
    x = hidden.astype(np.float64)
    for i, (weight, bias) in enumerate(linears):
        x = x @ weight.astype(np.float64).T + (0.0 if bias is None else bias)
        if i < len(linears) - 1 and config.get("enable_relu_and_dropout", False):
            x = np.maximum(x, 0)
    if not config.get("layerwise_scalings", False):
        x = np.repeat(x[:, None], num_layers, axis=1)
    rows = x.reshape(len(x) * num_layers, -1)
    return np.stack([_of_row(row, config) for row in rows]).reshape(len(x), num_layers, -1)


def _of_row(logits: Array, config: Mapping[str, Any]) -> Array:
    """One token and one layer."""
    shares = logits
    if config.get("enable_softmax", True):
        shares = softmax(logits / config.get("softmax_temperature", 1.0))
    if config.get("top_k_lora") is not None:
        kept = np.argsort(-shares, kind="stable")[: config["top_k_lora"]]
        shares = np.where(np.isin(np.arange(len(shares)), kept), shares, 0.0)
    if config.get("enable_softmax_topk", False) and shares.any():
        shares = shares.copy()
        shares[shares != 0] = softmax(shares[shares != 0])
    return shares


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max())
    return np.asarray(powers / powers.sum())


def linear(x: NDArray[Any], weight: NDArray[Any], experts: Iterable[Expert], scales: NDArray[Any], g: float) -> Array:
    """W x + Σ g s B A (x · scale): x (T, K), `scales` (T, N), those of this layer. Biases of W are the caller's."""
    x = x.astype(np.float64)
    y = x @ weight.astype(np.float64).T
    for i, (a, b, scale) in enumerate(experts):
        inner = (x * scales[:, i, None]) @ a.astype(np.float64).T
        y = y + g * scale * (inner @ b.astype(np.float64).T)
    return np.asarray(y)
