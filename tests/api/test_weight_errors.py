"""Errors of types, held against what is known of them."""

from __future__ import annotations

import pytest

from mistralrs_onnx.compiler.isq_map import GGML_TYPES
from mistralrs_onnx.weight_errors import type_error


def test_dense_types() -> None:
    """Rounding to p bits of mantissa errs by 2^-p at most, and by about a third of that in the mean."""
    assert type_error("F32") == 0
    assert 2**-14 < type_error("F16") < 2**-11
    assert 2**-11 < type_error("BF16") < 2**-8


def test_more_bits_err_less() -> None:
    errors = [type_error(name) for name in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "Q3_K", "Q2_K")]
    assert errors == sorted(errors)
    assert type_error("int4-16") < type_error("int4-32") < type_error("int4-256")


def test_a_uniform_quantizer_errs_as_its_step_says() -> None:
    """Q8_0 has 127 steps up to the largest of 32 normal weights, about 2.1, and errs by a step over the root of 12."""
    assert type_error("Q8_0") == pytest.approx(2.1 / 127 / 12**0.5, rel=0.15)


@pytest.mark.parametrize("name", GGML_TYPES)
def test_every_type_that_can_be_asked_for_has_one(name: str) -> None:
    assert 0 < type_error(name) < 0.35
