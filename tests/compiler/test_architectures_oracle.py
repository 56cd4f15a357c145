"""The files that the default tests trust: what transformers answers now is what they hold."""

from __future__ import annotations

import numpy as np
import pytest
from golden import ask_transformers, read_golden
from tiny_models import TINY, TOLERANCE

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", TINY)
def test_transformers_still_says_so(name: str) -> None:
    kept, now = read_golden()[name], ask_transformers(TINY[name])
    assert kept.model == now.model
    assert np.abs(kept.logits - now.logits).max() <= TOLERANCE * np.abs(now.logits).max()
