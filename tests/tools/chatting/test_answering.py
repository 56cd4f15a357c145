"""An answer while it comes."""

from __future__ import annotations

import pytest
from parrot import Parrot

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.outputs import outputs
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.tools.chatting.answering import Answer, recommended, speed

PROMPT = list(b"one two three")


def test_pieces_are_written_as_they_come() -> None:
    written: list[str] = []
    answer = Answer()
    answer.take(outputs(Parrot(), PROMPT, SamplingParams()), written.append)
    assert written == ["ONE ", "TWO ", "THREE ", ""]
    assert (answer.text, answer.num_tokens, answer.last.finish_reason) == ("ONE TWO THREE ", 3, "stop")
    assert answer.wait >= 0 <= answer.seconds


def test_an_interrupt_leaves_what_came_and_cancels_the_rest() -> None:
    parrot, answer = Parrot(), Answer()

    def write(text: str) -> None:
        if text == "TWO ":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer.take(outputs(parrot, PROMPT, SamplingParams()), write)
    assert (answer.text, answer.num_tokens, parrot.num_cancelled) == ("ONE TWO ", 2, 1)


def test_a_failure_on_the_way_is_raised() -> None:
    parrot = Parrot()
    parrot.failure = RequestError("no more", status=500)
    with pytest.raises(RequestError, match="no more"):
        list(outputs(parrot, PROMPT, SamplingParams()))


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        ({}, {"temperature": 0.3, "top_p": 0.95}),
        ({"repetition_penalty": 1.1}, {"temperature": 0.3, "top_p": 0.95, "repetition_penalty": 1.1}),
        ({"top_k": 20}, {"top_k": 20}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
    ],
)
def test_the_model_says_how_it_is_sampled_best(defaults: dict[str, float], expected: dict[str, float]) -> None:
    parrot = Parrot()
    parrot.defaults = defaults
    assert recommended(parrot) == expected


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 0.5, 0.0), "0 tokens, first after 0.50 s"),
        ((1, 0.5, 0.0), "1 token, first after 0.50 s"),
        ((11, 0.5, 2.0), "11 tokens, 5.0 tokens/s, first after 0.50 s"),
    ],
)
def test_speed_does_not_count_the_wait_for_the_first_token(arguments: tuple[int, float, float], text: str) -> None:
    assert speed(*arguments) == text
