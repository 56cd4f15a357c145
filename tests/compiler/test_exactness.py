"""The compiled real model against an independent one: what int8 activations cost, and that nothing else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.native import kernel_library
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session


def engine_logits(package: Package, ids: list[int], kernels: Path | None = None) -> NDArray[np.float32]:
    session = make_session(package.engine("float32"), kernels=kernels)
    runner = OrtRunner(session, package.manifest, num_slots=1, max_model_len=1024, max_chunk=512)
    return runner.run([Row(0, 0, ids, len(ids))])


def kl_divergence(expected: NDArray[np.float32], got: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(expected ‖ got) of the distributions of each row, in nats."""
    p, q = (
        x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), -1, keepdims=True) for x in (expected, got)
    )
    return (np.exp(p) * (p - q)).sum(-1)


@pytest.fixture(scope="module")
def ids(smollm2: Package, text: str) -> list[int]:
    ids = smollm2.tokenizer().encode(text).ids
    assert len(ids) >= 256
    return ids


def test_float_activations_give_the_reference_logits(smollm2_float32: Package, reference, ids: list[int]) -> None:
    """1e-3 of the largest logit: float32 sums in other orders through thirty layers."""
    expected = reference.logits(ids)
    difference = np.abs(engine_logits(smollm2_float32, ids) - expected).max()
    print("largest difference over largest logit:", difference / np.abs(expected).max())
    assert difference <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("kernels", [None, kernel_library()], ids=["stock", "native"])
def test_int8_activations_cost_less_than_a_hundredth_of_a_nat(
    smollm2: Package, reference, ids: list[int], kernels: Path | None
) -> None:
    expected, got = reference.logits(ids), engine_logits(smollm2, ids, kernels)
    divergence = kl_divergence(expected, got)
    print("KL in nats: mean", divergence.mean(), "largest", divergence.max())
    assert divergence.mean() <= 0.01
    assert (expected.argmax(-1) == got.argmax(-1)).mean() > 0.95
