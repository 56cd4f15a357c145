"""Outputs come until the last, and whoever stops listening frees the request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mistralrs_onnx.runtime.answers import Output, Sink
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.outputs import outputs
from mistralrs_onnx.runtime.sampling import SamplingParams


class Scripted:
    """Says what it was given, to whoever asks."""

    def __init__(self, *script: Output) -> None:
        self.script = script
        self.asked: list[tuple[Any, ...]] = []
        self.cancelled: list[int] = []

    def submit(
        self, prompt_ids: Sequence[int], params: SamplingParams, sink: Sink, *, adapter: Any = None, grammar: Any = None
    ) -> int:
        self.asked.append((list(prompt_ids), params, adapter, grammar))
        for output in self.script:
            sink(output)
        return 7

    def cancel(self, request: int) -> None:
        self.cancelled.append(request)


PARAMS = SamplingParams(max_tokens=3)
FIRST, LAST = Output("a", (1,)), Output("b", (2,), "stop")


def test_they_come_until_the_last() -> None:
    engine = Scripted(FIRST, LAST, FIRST)
    adapter, grammar = object(), object()
    assert list(outputs(engine, [5, 6], PARAMS, adapter, grammar)) == [FIRST, LAST]  # type: ignore[arg-type]
    assert engine.asked == [([5, 6], PARAMS, adapter, grammar)]
    assert engine.cancelled == [7]


def test_closing_cancels() -> None:
    engine = Scripted(FIRST, LAST)
    found = outputs(engine, [5], PARAMS)
    assert next(found) == FIRST
    assert engine.cancelled == []
    found.close()
    assert engine.cancelled == [7]


def test_an_error_is_raised_and_cancels() -> None:
    engine = Scripted(FIRST, Output("", (), "error", error=RequestError("no")))
    with pytest.raises(RequestError, match="no"):
        list(outputs(engine, [5], PARAMS))
    assert engine.cancelled == [7]


def test_nothing_is_asked_before_somebody_listens() -> None:
    engine = Scripted(LAST)
    outputs(engine, [5], PARAMS)
    assert engine.asked == []
