"""Speeds of requests whose times are known."""

from __future__ import annotations

from dataclasses import dataclass

from mistralrs_onnx.runtime.speeds import Speeds, speeds


@dataclass
class Ended:
    submitted_at: float
    first_token_at: float | None
    finished_at: float | None


def test_a_prompt_and_its_answer() -> None:
    assert speeds([Ended(1.0, 3.0, 7.0)], 1, 10, 8) == Speeds(3.0, 5.0, 2.0, 6.0, 2.0, 4.0)


def test_prompts_are_read_when_the_last_one_is() -> None:
    """Of two answers to each of two prompts, the first of each reads."""
    requests = [Ended(0.0, 1.0, 8.0), Ended(0.0, 6.0, 7.0), Ended(0.0, 2.0, 9.0), Ended(0.0, 7.0, 10.0)]
    assert speeds(requests, 2, 20, 80) == Speeds(10.0, 10.0, 10.0, 10.0, 2.0, 8.0)


def test_what_takes_no_time_has_no_speed() -> None:
    assert speeds([Ended(1.0, 1.0, 1.0)], 1, 2, 1) == Speeds(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert speeds([Ended(1.0, None, 2.0)], 1, 2, 0) == Speeds(2.0, 2.0, 0.0, 1.0, 1.0, 0.0)
