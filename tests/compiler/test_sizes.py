"""Numbers of bytes for people."""

from __future__ import annotations

import pytest

from mistralrs_onnx.compiler.sizes import size_text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.00 GiB")],
)
def test_sizes_have_the_unit_that_suits_them(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text
