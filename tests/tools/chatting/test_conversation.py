"""A conversation with a parrot."""

from __future__ import annotations

import pytest
from parrot import Parrot

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.tools.chatting.conversation import Conversation
from mistralrs_onnx.tools.chatting.screen import Screen


class Talk:
    """A conversation, and what it wrote. `stop_at`: the piece of an answer at which somebody interrupts."""

    def __init__(self, parrot: Parrot, params: SamplingParams | None = None, stop_at: str | None = None) -> None:
        self.written: list[str] = []
        self.stop_at = stop_at
        self.conversation = Conversation(parrot, Screen(self._write), params=params)

    def _write(self, text: str) -> None:
        self.written.append(text)
        if text == self.stop_at:
            raise KeyboardInterrupt

    @property
    def text(self) -> str:
        return "".join(self.written)


def contents(conversation: Conversation) -> list[str]:
    return [turn["content"] for turn in conversation.turns]


def test_answers_stream_and_are_remembered() -> None:
    parrot = Parrot()
    talk = Talk(parrot)
    talk.conversation.ask("hello there")
    assert talk.text.startswith("HELLO THERE \n[2 tokens, ")
    assert "tokens/s" in talk.text
    talk.conversation.ask("bye")
    assert contents(talk.conversation) == ["hello there", "HELLO THERE ", "bye", "BYE "]
    assert [turn["role"] for turn in parrot.asked[1]] == ["user", "assistant", "user"]
    assert talk.conversation.num_context == len("bye") + 1
    assert (talk.conversation.num_answers, talk.conversation.num_tokens) == (2, 3)


def test_the_system_text_comes_first() -> None:
    parrot = Parrot()
    Conversation(parrot, Screen(lambda text: None), system="be brief").ask("hello")
    assert parrot.asked[0][0] == {"role": "system", "content": "be brief"}


def test_a_question_that_does_not_fit_is_not_kept() -> None:
    talk = Talk(Parrot())
    talk.conversation.ask("hello")
    talk.conversation.ask("long " * 30)
    assert "error: the conversation no longer fits into the context of 100 tokens. /clear forgets it" in talk.text
    assert "Your question is not kept." in talk.text
    assert contents(talk.conversation) == ["hello", "HELLO "]


def test_a_limit_that_leaves_no_room_can_be_lowered() -> None:
    parrot = Parrot()
    parrot.failure = RequestError("lower it", code="context_length_exceeded", param="max_tokens")
    talk = Talk(parrot, SamplingParams(max_tokens=99))
    talk.conversation.ask("hello")
    assert "error: 99 more tokens do not fit into the context of 100. /maxtokens sets another limit." in talk.text


def test_a_failure_on_the_way_is_told_and_its_question_not_kept() -> None:
    parrot = Parrot()
    parrot.failure = RequestError("the model could not be run", status=500)
    talk = Talk(parrot)
    talk.conversation.ask("hello there")
    assert talk.text.startswith("HELLO THERE \nerror: the model could not be run. /clear begins a new conversation.\n")
    assert talk.conversation.turns == []


def test_an_interrupt_stops_the_answer_and_keeps_what_was_said() -> None:
    parrot = Parrot()
    talk = Talk(parrot, stop_at="TWO ")
    talk.conversation.ask("one two three")
    assert contents(talk.conversation) == ["one two three", "ONE TWO "]
    assert ", stopped]" in talk.text
    assert parrot.num_cancelled == 1


def test_what_is_stopped_before_it_begins_is_no_turn() -> None:
    parrot = Parrot()
    talk = Talk(parrot)

    def interrupted(messages: object) -> list[int]:
        raise KeyboardInterrupt

    parrot.encode_chat = interrupted  # type: ignore[method-assign,assignment]
    talk.conversation.ask("one")
    assert talk.conversation.turns == []
    assert ", stopped]\nYour question is not kept.\n" in talk.text


def test_an_answer_that_is_cut_off_says_where() -> None:
    for params, ending in (
        (SamplingParams(max_tokens=1), ", cut off at 1 tokens (/maxtokens)]\n"),
        (SamplingParams(max_tokens=9), "]\n"),
    ):
        talk = Talk(Parrot(), params)
        talk.conversation.ask("one two")
        assert talk.text.endswith(ending)
        assert ("cut off" in talk.text) == ("cut off" in ending)


def test_an_answer_that_fills_the_context_says_so() -> None:
    parrot = Parrot()
    parrot.room = 1
    talk = Talk(parrot)
    talk.conversation.ask("one two")
    assert talk.text.endswith(", cut off: the context is full]\n[/clear forgets it and keeps the system text]\n")


def test_another_answer_takes_the_place_of_the_last() -> None:
    parrot = Parrot()
    talk = Talk(parrot, SamplingParams(seed=5))
    talk.conversation.ask("one")
    talk.conversation.ask("two")
    talk.conversation.regenerate()
    talk.conversation.regenerate()
    assert contents(talk.conversation) == ["one", "ONE ", "two", "TWO "]
    assert parrot.asked[1] == parrot.asked[2] == parrot.asked[3]
    assert len(set(parrot.seeds[1:])) == 3


def test_an_answer_stays_when_there_is_no_other() -> None:
    parrot = Parrot()
    talk = Talk(parrot)
    with pytest.raises(RequestError, match="no answer yet"):
        talk.conversation.regenerate()
    talk.conversation.ask("one")
    parrot.failure = RequestError("no more")
    talk.conversation.regenerate()
    assert contents(talk.conversation) == ["one", "ONE "]
    assert "The former answer is kept." in talk.text


def test_at_temperature_0_there_is_no_other_answer() -> None:
    talk = Talk(Parrot(), SamplingParams(temperature=0))
    talk.conversation.ask("one")
    talk.conversation.regenerate()
    assert "The temperature is 0: the answer will be the same." in talk.text


def test_a_grammar_is_that_of_every_answer() -> None:
    parrot = Parrot()
    grammar: object = object()
    conversation = Conversation(parrot, Screen(lambda text: None), grammar=grammar)  # type: ignore[arg-type]
    conversation.ask("one")
    assert parrot.grammar is grammar
