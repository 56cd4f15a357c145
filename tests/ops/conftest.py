"""Rows of every format for the tests of operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from random_rows import random_rows as rows_of

from mistralrs_onnx.ops.formats import Bytes


@pytest.fixture(scope="session")
def random_rows() -> Callable[..., Bytes]:
    return rows_of
