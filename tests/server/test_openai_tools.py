"""The official client uses tools, and reads thoughts: of a model that says what it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from mistralrs_onnx.runtime.chat_template import ChatTemplate
from mistralrs_onnx.server.reasoning import THINK
from mistralrs_onnx.server.tool_calls.formats import HERMES
from mistralrs_onnx.server.tool_calls.grammar import tool_grammar
from mistralrs_onnx.server.tool_calls.tools import Choice, as_tools

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    for name in ("weather", "time")
]
OSLO = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def hermes(running: Any) -> Iterator[Any]:
    """The server of a model whose template shows Hermes' calls, and thoughts."""
    running.model.template_source = "<tool_call></tool_call><think></think>"
    yield running
    running.model.template_source = ""


@dataclass
class Answer:
    """What is the same of an answer whole and streamed."""

    content: str | None
    reasoning: str | None
    calls: list[tuple[str, str]]
    finish_reason: str


def ask(running: Any, says: str, *, stream: bool, **options: Any) -> Answer:
    messages: list[Any] = [{"role": "user", "content": says}]
    options = {"tools": TOOLS} | options
    create = running.client().chat.completions.create
    answer = create(model="parrot", messages=messages, stream=stream, **options)
    return streamed(list(answer)) if stream else whole(answer.choices[0])


def whole(choice: Any) -> Answer:
    message = choice.message
    calls = message.tool_calls or []
    assert all(call.type == "function" for call in calls)
    assert len({call.id for call in calls}) == len(calls)
    made = [(call.function.name, call.function.arguments) for call in calls]
    return Answer(message.content, getattr(message, "reasoning_content", None), made, choice.finish_reason)


def streamed(chunks: list[Any]) -> Answer:
    """Put together as OpenAI's cookbook does."""
    content, reasoning, finish_reasons = "", "", []
    calls: list[list[str]] = []
    ids = []
    for choice in (chunk.choices[0] for chunk in chunks):
        content += choice.delta.content or ""
        reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        finish_reasons.append(choice.finish_reason)
        for call in choice.delta.tool_calls or []:
            if call.index == len(calls):
                assert call.type == "function"
                ids.append(call.id)
                calls.append([call.function.name, ""])
            else:
                assert call.index == len(calls) - 1
                assert call.id is None
                assert call.function.name is None
            calls[call.index][1] += call.function.arguments
    assert finish_reasons[:-1] == [None] * (len(finish_reasons) - 1)
    assert len(set(ids)) == len(ids)
    nothing = None if calls or reasoning else ""
    return Answer(content or nothing, reasoning or None, [(name, text) for name, text in calls], finish_reasons[-1])


WEATHER, TIME = ("weather", '{"city": "Oslo"}'), ("time", "{}")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("says", "answer"),
    [
        ("Hello <tool", Answer("Hello <tool", None, [], "stop")),
        (OSLO, Answer(None, None, [WEATHER], "tool_calls")),
        (f"Let me see.\n{OSLO}", Answer("Let me see.\n", None, [WEATHER], "tool_calls")),
        (f"{OSLO}\n{NOW}\n", Answer(None, None, [WEATHER, TIME], "tool_calls")),
        (OSLO.replace('"arguments"', "arguments"), Answer(OSLO.replace('"arguments"', "arguments"), None, [], "stop")),
        ("<think>\nHm.\n</think>\n\nYes", Answer("Yes", "Hm.", [], "stop")),
        (f"<think>Not {NOW}</think>{OSLO}", Answer(None, f"Not {NOW}", [WEATHER], "tool_calls")),
        ("<think>Hm", Answer(None, "Hm", [], "stop")),
        ("Hm</think>Yes <think>\n", Answer("Yes <think>\n", "Hm", [], "stop")),  # the prompt ends with the tag
    ],
)
def test_answers(hermes: Any, says: str, answer: Answer, stream: bool) -> None:
    assert ask(hermes, says, stream=stream) == answer


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_off_says_so(hermes: Any, stream: bool) -> None:
    length = OSLO.index("slo")
    cut = ask(hermes, OSLO, stream=stream, max_tokens=length)
    assert cut == Answer(None, None, [("weather", '{"city": "O')], "length")


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_calls_may_be_refused(hermes: Any, stream: bool) -> None:
    answer = ask(hermes, f"{OSLO}{NOW}", stream=stream, parallel_tool_calls=False)
    assert answer.calls == [WEATHER]


@pytest.mark.parametrize("options", [{"tools": None}, {"tools": []}, {"tool_choice": "none"}])
def test_without_tools_there_are_no_calls(hermes: Any, options: Any) -> None:
    assert ask(hermes, OSLO, stream=False, **options) == Answer(OSLO, None, [], "stop")
    assert hermes.model.chats[-1].tools is None


HARMONY_ANSWER = (
    "<|channel|>analysis<|message|>Hm, the assistant."
    "assistant<|channel|>analysis<|message|>So.assistant<|channel|>commentary<|message|>Let me see."
    'assistant<|channel|>commentary to=functions.weather json<|message|>{"city": "Oslo"}'
    "assistant to=functions.time<|channel|>commentary json<|message|>{}"
    "assistant to=python<|channel|>analysis<|message|>1 + 1assistant<|channel|>fin"
)


@pytest.mark.parametrize("stream", [False, True])
def test_channels_of_gpt_oss(serve: Any, parrot_model: Any, stream: bool) -> None:
    running = serve(parrot_model(template_source="<|channel|><|message|>"))
    thoughts = "Hm, the assistant.\nSo.\n1 + 1"
    answer = Answer("Let me see.", thoughts, [WEATHER, TIME], "tool_calls")
    assert ask(running, HARMONY_ANSWER, stream=stream) == answer
    final = "<|channel|>analysis<|message|>Hmassistant<|channel|>final<|message|>I assist"
    assert ask(running, final, stream=stream) == Answer("I assist", "Hm", [], "stop")
    assert ask(running, "No channel, assistant", stream=stream) == Answer("No channel, assistant", None, [], "stop")


def test_arguments_come_in_pieces(hermes: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": OSLO}]
    chunks = list(
        hermes.client().chat.completions.create(model="parrot", messages=messages, tools=TOOLS, stream=True, n=2)
    )
    pieces: dict[int, list[str]] = {0: [], 1: []}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        pieces[choice.index] += [call.function.arguments for call in choice.delta.tool_calls or []]
    for each in pieces.values():
        assert "".join(each) == WEATHER[1]
        assert len(each) > 2


def test_the_clients_own_stream_helper_puts_calls_together(hermes: Any) -> None:
    with hermes.client().chat.completions.stream(
        model="parrot", messages=[{"role": "user", "content": OSLO}], tools=TOOLS
    ) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in events
    assert whole(final.choices[0]).calls == [WEATHER]


def test_a_conversation_with_results_reaches_the_template(hermes: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": f"<think>Hm</think>{OSLO}"}]
    create = hermes.client().chat.completions.create
    message = create(model="parrot", messages=messages, tools=TOOLS).choices[0].message
    call_id = message.tool_calls[0].id
    messages += [message, {"role": "tool", "tool_call_id": call_id, "content": "-3 °C"}]
    answer = create(model="parrot", messages=messages, tools=TOOLS, extra_body={"chat_template_kwargs": {"a": 1}})
    assert answer.choices[0].message.content == "-3 °C"
    chat = hermes.model.chats[-1]
    call = {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    assert list(chat.messages[1:]) == [
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "Hm", "thinking": "Hm"},
        {"role": "tool", "content": "-3 °C", "tool_call_id": call_id},
    ]
    assert chat.tools == TOOLS
    assert chat.extra == {"a": 1}
    rendered = ChatTemplate("{{ messages[1].tool_calls[0].function | tojson }}{{ tools | tojson }}").render(
        chat.messages, tools=chat.tools
    )
    assert rendered == json.dumps(call["function"]) + json.dumps(TOOLS)


def test_arguments_in_error_reach_the_template_as_text(hermes: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
    messages: list[Any] = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "hi"}]
    hermes.client().chat.completions.create(model="parrot", messages=messages)
    assert hermes.model.chats[-1].messages[0]["tool_calls"][0]["function"]["arguments"] == '{"a": '


WEATHER_CHOICE = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("choice", "parallel", "names", "is_parallel"),
    [
        ("required", None, ("weather", "time"), True),
        ("required", False, ("weather", "time"), False),
        (WEATHER_CHOICE, None, ("weather",), False),
    ],
)
def test_a_forced_call_has_a_grammar(
    hermes: Any, choice: Any, parallel: bool | None, names: tuple[str, ...], is_parallel: bool
) -> None:
    answer = ask(hermes, OSLO, stream=False, tool_choice=choice, parallel_tool_calls=parallel, n=2)
    assert answer == Answer(None, None, [WEATHER], "tool_calls")
    first, second = hermes.engine.grammars[-2:]
    assert first is second
    tools = tuple(tool for tool in as_tools(TOOLS) if tool.name in names)
    expected = tool_grammar(tools, Choice("required"), HERMES, parallel=is_parallel, thoughts=THINK)
    assert (first.kind, first.text, first.param) == ("lark", expected, "tools")


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_other_calls_have_no_grammar(hermes: Any, choice: Any) -> None:
    ask(hermes, OSLO, stream=False, tool_choice=choice)
    assert hermes.engine.grammars[-1] is None


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "w"}}}, "tool_choice", "'w', which is not among"),
        ({"tool_choice": "required", "tools": []}, "tool_choice", "there are no tools"),
        ({"tool_choice": "maybe"}, "tool_choice", "none, auto, required"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "letters, digits"),
        ({"extra_body": {"functions": [{"name": "f"}]}}, "functions", "use tools"),
        ({"extra_body": {"function_call": {"name": "f"}}}, "function_call", "use tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "valid boolean"),
    ],
)
def test_what_cannot_be_done_is_a_bad_request(hermes: Any, options: Any, param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        ask(hermes, "hi", stream=False, **options)
    assert caught.value.param == param
