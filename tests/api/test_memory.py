"""What memory there is to take."""

from __future__ import annotations

import pytest

from mistralrs_onnx import memory
from mistralrs_onnx.runtime.containers import Container, MemoryBound


def test_a_machine_has_some_of_its_memory_left() -> None:
    assert 0 < memory.available_memory() <= memory.total_memory()


def test_a_container_has_what_its_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Container, "memory", lambda self: MemoryBound(5000, 2000))
    assert memory.available_memory() == 3000
