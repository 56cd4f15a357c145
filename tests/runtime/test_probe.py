"""The probe stays inside the slots it is given, and notices a runner that gives other bits in company."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mistralrs_onnx.runtime.core import Logits, Row
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.probe import NEEDED, check_logits, is_invariant, settle_rows


@pytest.mark.parametrize("capacity", [NEEDED, 64, 4096])
def test_it_fits_into_short_slots(fake, capacity: int) -> None:
    runner = fake(num_slots=2, capacity=capacity)
    check_logits(runner)
    assert is_invariant(runner)
    assert {slot for slot, _ in runner.freed} == {0, 1}


@pytest.mark.parametrize("capacity", [NEEDED, 4096])
def test_other_bits_in_company_are_noticed(fake, capacity: int) -> None:
    class Sociable(fake):
        def run(self, rows: Sequence[Row]) -> Logits:
            return super().run(rows) * len(rows)

    assert not is_invariant(Sociable(num_slots=2, capacity=capacity))


def test_logits_that_are_zero_are_refused(fake) -> None:
    class Silent(fake):
        def run(self, rows: Sequence[Row]) -> Logits:
            return 0 * super().run(rows)

    with pytest.raises(PackageError, match="no sane logits"):
        check_logits(Silent())


@pytest.mark.parametrize(("alone", "multiple"), [(1.0, 1), (1.5, 2)])
def test_rows_go_in_pairs_where_one_alone_has_other_bits(fake, alone: float, multiple: int) -> None:
    class Kernel(fake):
        row_multiple = 1

        def run(self, rows: Sequence[Row]) -> Logits:
            return super().run(rows) * (alone if len(rows) == self.row_multiple == 1 else 1)

    runner = Kernel(num_slots=2, capacity=64)
    settle_rows(runner)
    assert runner.row_multiple == multiple
    assert is_invariant(runner)
