"""Tiny models of every kind of kernel run on this machine."""

from __future__ import annotations

import pytest

from mistralrs_onnx.diagnosing import kernel_probe
from mistralrs_onnx.diagnosing.kernel_probe import KINDS, probe_kernels
from mistralrs_onnx.runtime.probe import is_invariant


def test_every_kind_is_probed() -> None:
    probed = probe_kernels()
    assert [each.kind for each in probed] == list(KINDS)
    assert all(each.is_invariant for each in probed)
    assert {each.row_multiple for each in probed} <= {1, 2}


def test_it_notices_kernels_that_sum_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those for float activations do with AVX-512; elsewhere a runner stands in for them."""
    monkeypatch.setattr(kernel_probe, "is_invariant", lambda runner: is_invariant(_Summing(runner)))
    assert not any(each.is_invariant for each in probe_kernels())


class _Summing:
    """Rows in company come out a little larger."""

    def __init__(self, runner) -> None:
        self.runner = runner
        self.capacity = runner.capacity
        self.free = runner.free

    def run(self, rows):
        return self.runner.run(rows) * (1 + 1e-6 * (len(rows) - 1))
