"""A conversation, typed and read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from mistralrs_onnx.runtime.adapter_registry import AdapterRegistry
from mistralrs_onnx.runtime.adapters import Adapter, Packed
from mistralrs_onnx.runtime.answers import Output
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.tools.interactive import Conversation, speed


class Parrot:
    """A model and its engine: says the last message again, in capitals, word by word."""

    name = "parrot"

    def __init__(self) -> None:
        self.engine = self
        self.asked: list[list[dict[str, str]]] = []
        self.num_cancelled = 0
        self.adapters: AdapterRegistry | None = None
        self.mixed_adapters: tuple[str, ...] = ()
        self.adapter: Adapter | None = None
        self.defaults: dict[str, Any] = {}
        self.params: SamplingParams | None = None

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        self.asked.append([dict(message) for message in messages])
        if len(messages) > 5:
            raise RequestError("too long")
        return list(messages[-1]["content"].encode())

    def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, adapter: Adapter | None = None
    ) -> Iterator[Output]:
        finished, self.params, self.adapter = False, params, adapter
        try:
            for word in bytes(prompt_ids).decode().upper().split():
                yield Output(f"{word} ", (1,))
            finished = True
        finally:
            self.num_cancelled += not finished


def talk(model: Any, *lines: Any) -> tuple[Conversation, str]:
    """Lines are typed one after the other; an exception class is what happens instead of a line."""
    typed = iter([*lines, EOFError])
    written: list[str] = []

    def read() -> str:
        line = next(typed)
        if isinstance(line, str):
            return line + "\n"
        raise line

    conversation = Conversation(model, written.append)
    conversation.run(read)
    return conversation, "".join(written)


def test_answers_stream_and_are_remembered() -> None:
    parrot = Parrot()
    conversation, text = talk(parrot, "hello there", "", "bye")
    assert text.startswith("HELLO THERE \n[2 tokens, ")
    assert "tokens/s" in text
    assert [turn["content"] for turn in conversation.turns] == ["hello there", "HELLO THERE ", "bye", "BYE "]
    assert [turn["role"] for turn in parrot.asked[1]] == ["user", "assistant", "user"]


def test_exit_ends() -> None:
    assert talk(Parrot(), "/exit", "hello")[1] == ""


def test_clear_forgets_but_keeps_the_system_text() -> None:
    conversation, _ = talk(Parrot(), "/system be brief", "hello", "/clear")
    assert conversation.turns == []
    assert conversation.system == "be brief"


def test_system_text_comes_first_and_can_be_taken_back() -> None:
    parrot = Parrot()
    talk(parrot, "/system be brief", "hello", "/system", "hello")
    assert parrot.asked[0][0] == {"role": "system", "content": "be brief"}
    assert parrot.asked[1] == [{"role": "user", "content": "hello"}]


def test_help_and_unknown_commands() -> None:
    assert all(name in talk(Parrot(), "/help")[1] for name in ("/help", "/exit", "/clear", "/system"))
    assert "Did you mean /clear?" in talk(Parrot(), "/claer")[1]


def test_an_error_is_shown_and_its_question_forgotten() -> None:
    conversation, text = talk(Parrot(), "one", "two", "three", "four")
    assert "error: too long. /clear begins" in text
    assert conversation.turns[-1]["content"] == "THREE "


def test_an_interrupt_while_typing_is_nothing() -> None:
    assert talk(Parrot(), KeyboardInterrupt, "hello")[1].startswith("HELLO")


def test_an_interrupt_stops_the_answer_and_keeps_what_was_said() -> None:
    parrot = Parrot()
    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        if text == "TWO ":
            raise KeyboardInterrupt

    conversation = Conversation(parrot, write)
    conversation.ask("one two three")
    assert conversation.turns[-1]["content"] == "ONE TWO "
    assert ", stopped]" in written[-1]
    assert parrot.num_cancelled == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 0.5, 0.0), "0 tokens, first after 0.50 s"),
        ((1, 0.5, 0.0), "1 tokens, first after 0.50 s"),
        ((11, 0.5, 2.0), "11 tokens, 5.0 tokens/s, first after 0.50 s"),
    ],
)
def test_speed_does_not_count_the_wait_for_the_first_token(arguments: tuple[int, float, float], text: str) -> None:
    assert speed(*arguments) == text


def test_the_model_is_sampled_as_it_recommends() -> None:
    parrot = Parrot()
    parrot.defaults = {"temperature": 0.6, "top_k": 20}
    talk(parrot, "hi")
    assert parrot.params == SamplingParams(temperature=0.6, top_k=20)


def empty(name: str) -> Adapter:
    packed = Packed(np.zeros((1, 1, 2, 16), np.float32), (np.zeros((16, 2), np.float32),))
    return Adapter(name, name, 1, 1, {0: packed})


@pytest.fixture
def adapted() -> Parrot:
    parrot = Parrot()
    parrot.adapters = AdapterRegistry()
    for name in ("sql", "poem"):
        parrot.adapters.add(empty(name))
    return parrot


def test_adapters_are_chosen_by_name(adapted: Parrot) -> None:
    _, text = talk(adapted, "/adapter sql", "hello")
    assert "Answering with sql.\n" in text
    assert adapted.adapter is not None
    assert adapted.adapter.name == "sql"
    assert "Answering with sql:1+poem:0.5." in talk(adapted, "/adapter sql poem:0.5")[1]


def test_without_a_name_those_that_are_active_answer(adapted: Parrot) -> None:
    assert adapted.adapters is not None
    adapted.adapters.activate(["poem"])
    talk(adapted, "hello")
    assert adapted.adapter is not None
    adapted.adapters.activate([])
    assert "the model alone" in talk(adapted, "/adapter", "hello")[1]
    assert adapted.adapter is None


@pytest.mark.parametrize(("words", "complaint"), [("owl", "does not exist"), ("sql:much", "must be a number")])
def test_mistaken_adapters_change_nothing(adapted: Parrot, words: str, complaint: str) -> None:
    assert complaint in talk(adapted, "/adapter sql", f"/adapter {words}", "hello")[1]
    assert adapted.adapter is not None
    assert "--lora-modules" in talk(Parrot(), "/adapter sql")[1]


def test_an_xlora_lets_nobody_choose() -> None:
    parrot = Parrot()
    parrot.mixed_adapters = ("first", "second")
    assert "mixes its own adapters (first, second) by X-LoRA" in talk(parrot, "/adapter first")[1]
