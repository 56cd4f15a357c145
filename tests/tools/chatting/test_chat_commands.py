"""Lines that begin with a slash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parrot import Parrot, adapted_parrot

from mistralrs_onnx.tools.chatting.chat_commands import COMMANDS, EXIT
from mistralrs_onnx.tools.chatting.conversation import Conversation
from mistralrs_onnx.tools.chatting.interactive import hear
from mistralrs_onnx.tools.chatting.screen import Screen


def said(parrot: Parrot, *lines: str) -> tuple[Conversation, str]:
    written: list[str] = []
    conversation = Conversation(parrot, Screen(written.append))
    for line in lines:
        hear(conversation, line)
    return conversation, "".join(written)


def test_help_lists_every_command() -> None:
    _, text = said(Parrot(), "/help")
    assert [line.split()[0] for line in text.splitlines() if line.startswith("/")] == list(COMMANDS)
    assert EXIT in COMMANDS
    assert max(map(len, text.splitlines())) <= 80


def test_what_is_no_command_has_a_neighbour() -> None:
    assert "error: there is no /claer. Did you mean /clear?" in said(Parrot(), "/claer")[1]
    assert "error: there is no /zz. /help lists" in said(Parrot(), "/zz")[1]


def test_clear_forgets_but_keeps_the_system_text() -> None:
    conversation, _ = said(Parrot(), "/system be brief", "hello", "/clear")
    assert (conversation.turns, conversation.system, conversation.num_context) == ([], "be brief", None)


def test_a_system_text_begins_anew_and_can_be_taken_back() -> None:
    parrot = Parrot()
    _, text = said(parrot, "/system be brief", "hello", "/system", "hello")
    assert parrot.asked[0][0] == {"role": "system", "content": "be brief"}
    assert parrot.asked[1] == [{"role": "user", "content": "hello"}]
    assert "There is no system text. The conversation begins anew." in text


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("/temperature 0.5", "temperature", 0.5),
        ("/topk 20", "top_k", 20),
        ("/topp 0.9", "top_p", 0.9),
        ("/minp 0.1", "min_p", 0.1),
        ("/maxtokens 2", "max_tokens", 2),
        ("/seed 7", "seed", 7),
    ],
)
def test_settings_are_those_of_the_next_answer(line: str, name: str, value: float) -> None:
    parrot = Parrot()
    _, text = said(parrot, line, "hello")
    assert getattr(parrot.params, name) == value
    assert f"{name}: {value}\n" in text
    first = getattr(said(parrot, "hello")[0].params, name)
    conversation, text = said(parrot, line, f"{line.split()[0]} default", line.split()[0])
    assert getattr(conversation.params, name) == first
    assert text.splitlines()[1] == text.splitlines()[2] != text.splitlines()[0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/temperature hot", "temperature must be a number or 'default', got 'hot'"),
        ("/temperature -1", "temperature must be a number from 0 to 100, got -1.0"),
        ("/temperature nan", "temperature must be a number from 0 to 100"),
        ("/topk 2.5", "top_k must be an integer or 'default'"),
        ("/topp 0", "top_p must be a number above 0"),
        ("/maxtokens 0", "max_tokens must be an integer from 1"),
        ("/save", "which file?"),
        ("/load", "which file?"),
        ("/load /no/where", "cannot be read"),
        ("/save ~nobody-of-this-name/x", "~nobody-of-this-name"),
        ("/regen", "no answer yet"),
    ],
)
def test_mistakes_change_nothing(line: str, complaint: str) -> None:
    conversation, text = said(Parrot(), line)
    assert f"error: {complaint}" in text or complaint in text
    assert text.startswith("error: ")
    assert conversation.params == conversation.defaults


def test_stats_say_how_full_the_context_is() -> None:
    _, text = said(Parrot(), "/stats", "hello you", "/stats")
    assert "conversation: 0 messages, the context holds 100 tokens" in text
    assert "conversation: 2 messages, 11 of 100 tokens (11% of the context)" in text
    assert "2 of 9 prompt tokens reused" in text
    assert "temperature: 0.3, top_k: 0, top_p: 0.95, min_p: 0.0, max_tokens: as many as fit, seed: another" in text


def test_a_conversation_is_saved_and_goes_on(tmp_path: Path) -> None:
    path, parrot = tmp_path / "chat.json", Parrot()
    said(parrot, "/system be brief", "/temperature 0.9", "/seed 3", "hello", f"/save {path}")
    conversation, text = said(parrot, "other", f"/load {path}", "bye")
    assert "3 messages are back.\n> hello\nHELLO \n" in text
    assert [message["content"] for message in parrot.asked[-1]] == ["be brief", "hello", "HELLO ", "bye"]
    assert (conversation.params.temperature, conversation.params.seed) == (0.9, 3)
    assert "exists already" in said(parrot, f"/save {path}")[1]
    assert "0 messages are in" in said(parrot, f"/save! {path}")[1]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"settings": {"temperature": "hot"}}, "temperature must be a number"),
        ({"settings": {"stop": ["x"]}}, "has a setting 'stop'; known are temperature"),
        ({"adapters": ["sql"]}, "no adapters are loaded"),
        ({"messages": []}, ""),
    ],
)
def test_what_is_loaded_is_taken_as_a_whole_or_not_at_all(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    path = tmp_path / "chat.json"
    said(Parrot(), "/temperature 0.9", "hello", f"/save {path}")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    conversation, text = said(Parrot(), "first", f"/load {path}")
    assert complaint in text
    assert len(conversation.turns) == (2 if complaint else 0)
    assert conversation.params.temperature == (0.3 if complaint else 0.9)


@pytest.fixture
def adapted() -> Parrot:
    return adapted_parrot("sql", "poem")


def test_adapters_are_chosen_by_name(adapted: Parrot) -> None:
    _, text = said(adapted, "/adapter sql", "hello", "/stats")
    assert "Answering with sql.\n" in text
    assert "parrot, answering with sql\n" in text
    assert adapted.adapter is not None
    assert adapted.adapter.name == "sql"
    assert "Answering with sql:1+poem:0.5." in said(adapted, "/adapter sql poem:0.5")[1]


def test_without_a_name_those_that_are_active_answer(adapted: Parrot) -> None:
    assert adapted.adapters is not None
    adapted.adapters.activate(["poem"])
    said(adapted, "hello")
    assert adapted.adapter is not None
    adapted.adapters.activate([])
    assert "the model alone" in said(adapted, "/adapter", "hello")[1]
    assert adapted.adapter is None


def test_adapters_are_saved_as_they_were_chosen(adapted: Parrot, tmp_path: Path) -> None:
    said(adapted, "/adapter sql poem:0.5", "hello", f"/save {tmp_path}/chat.json")
    assert said(adapted, f"/load {tmp_path}/chat.json")[0].adapter_name == "sql:1+poem:0.5"


@pytest.mark.parametrize(("words", "complaint"), [("owl", "does not exist"), ("sql:much", "must be a number")])
def test_mistaken_adapters_change_nothing(adapted: Parrot, words: str, complaint: str) -> None:
    conversation, text = said(adapted, "/adapter sql", f"/adapter {words}", "hello")
    assert complaint in text
    assert conversation.adapter_name == "sql"
    assert "--lora-modules" in said(Parrot(), "/adapter sql")[1]


def test_an_xlora_lets_nobody_choose() -> None:
    parrot = Parrot()
    parrot.mixed_adapters = ("first", "second")
    assert "mixes its own adapters (first, second) by X-LoRA" in said(parrot, "/adapter first")[1]
