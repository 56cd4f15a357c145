"""Calls are found in the text of every format, in pieces of any size, and nothing is lost."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistralrs_onnx.server.tool_calls.events import Arguments, CallEnd, CallStart, Content, Event
from mistralrs_onnx.server.tool_calls.formats import (
    FORMATS,
    HARMONY,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_NAMED,
    PLAIN_JSON,
    Format,
    detect,
)
from mistralrs_onnx.server.tool_calls.json_scanner import JsonScanner

F = '{"name": "f", "arguments": {"a": [1, "}"]}}'
G = '{"name": "g", "parameters": {}}'
F_CALL, G_CALL = ("f", '{"a": [1, "}"]}'), ("g", "{}")


def parse(format_: Format, pieces: Sequence[str]) -> list[Event]:
    ids = map(str, itertools.count())
    parser = format_.parser(lambda: next(ids))
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish()


def joined(events: Sequence[Event]) -> list[Event]:
    """With pieces put together."""
    done: list[Event] = []
    for event in events:
        match (done[-1] if done else None), event:
            case Content(before), Content(text):
                done[-1] = Content(before + text)
            case Arguments(_, before), Arguments(index, text):
                done[-1] = Arguments(index, before + text)
            case _:
                done.append(event)
    return done


def content_and_calls(events: Sequence[Event]) -> tuple[str, list[tuple[str, str]]]:
    names = {event.index: event.name for event in events if isinstance(event, CallStart)}
    arguments = dict.fromkeys(names, "")
    for event in events:
        if isinstance(event, Arguments):
            arguments[event.index] += event.text
    content = "".join(event.text for event in events if isinstance(event, Content))
    return content, [(name, arguments[index]) for index, name in names.items()]


CALLS = [
    (HERMES, f"<tool_call>\n{F}\n</tool_call>", "", [F_CALL]),
    (HERMES, f"Well.\n<tool_call>{F}</tool_call>\n<tool_call>\n{G}</tool_call>\n", "Well.\n", [F_CALL, G_CALL]),
    (HERMES, f"<tool_call>[{F}, {G}]</tool_call>", "", [F_CALL, G_CALL]),
    (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [("f", '{"a": 1}')]),
    (HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("f", '{"a": 1}')]),
    (HERMES, f"<<tool_call>{F}</tool_call> and then", "< and then", [F_CALL]),
    (LLAMA3, G, "", [G_CALL]),
    (LLAMA3, f"<|python_tag|>{G}", "", [G_CALL]),
    (LLAMA3, f"{G}; {F}", "", [G_CALL, F_CALL]),
    (LLAMA3, '{"type": "function", "name": "g", "parameters": {}}', "", [G_CALL]),
    (MISTRAL, f'[TOOL_CALLS] [{F}, {G[:-1]}, "id": "123456789"}}]', "", [F_CALL, G_CALL]),
    (MISTRAL, f"Well [TOOL_CALLS]{F}", "Well ", [F_CALL]),
    (MISTRAL_NAMED, '[TOOL_CALLS]f[ARGS]{"a": 1}', "", [("f", '{"a": 1}')]),
    (MISTRAL_NAMED, "[TOOL_CALLS]f[CALL_ID]abc[ARGS]{}[TOOL_CALLS]g{}", "", [("f", "{}"), G_CALL]),
    (HARMONY, 'Well.<|channel|>commentary to=functions.f<|message|>{"a": 1}', "Well.", [("f", '{"a": 1}')]),
    (PLAIN_JSON, f"[{F},\n {G}]", "", [F_CALL, G_CALL]),
    (PLAIN_JSON, f"```json\n{F}\n```", "```json\n\n```", [F_CALL]),
    # Names are not compared with the tools there are, as in vLLM.
    (PLAIN_JSON, '{"name": "nobody.knows", "arguments": {}}', "", [("nobody.knows", "{}")]),
    # Nothing is lost of what breaks off, or is in error, after its arguments have begun.
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "b', "", [("f", '{"a": "b')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": b}}</tool_call>', "}}</tool_call>", [("f", '{"a": b')]),
    (HERMES, f"<tool_call>{F[:-1]} oops", "oops", [F_CALL]),
    (LLAMA3, f"{G}; done", "; done", [G_CALL]),
]


@pytest.mark.parametrize(("format_", "text", "content", "calls"), CALLS)
def test_calls_are_found(format_: Format, text: str, content: str, calls: Any) -> None:
    found, made = content_and_calls(parse(format_, [text]))
    assert (found.strip(), made) == (content.strip(), calls)


CONTENT = [
    (HERMES, "a < b, <tool_cal>, <tool_call"),
    (HERMES, "<tool_call>f(1)</tool_call>"),
    (HERMES, '<tool_call>{"name": "f", "argument": {}}</tool_call>'),
    (HERMES, '<tool_call>{"name": 1, "arguments": {}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": "1"}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arg'),
    (HERMES, '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
    (HERMES, F),
    (LLAMA3, "<|python_tag|>brave_search.call(query='x')"),
    (LLAMA3, '{"name": "Bob", "age": 3} and [1, 2] and {}'),
    (PLAIN_JSON, '{"name": "Bob"}'),
    (PLAIN_JSON, '[{"name": "Bob"}, {"name": "Al"}]'),
    (PLAIN_JSON, " \n"),
    (MISTRAL, "[TOOL_CALLS]"),
    (MISTRAL, "[TOOL_CALLS][1, 2] and [a list]"),
    (MISTRAL_NAMED, "[TOOL_CALLS]f[ARGS]nothing"),
    (MISTRAL_NAMED, "[TOOL_CALLS]f[ARG]{}"),
    (MISTRAL_NAMED, "[TOOL_CALLS]ü{}"),
    (HARMONY, "<|channel|>commentary to=functions.f<|message|>(1)"),
]


@pytest.mark.parametrize(("format_", "text"), CONTENT)
def test_what_is_no_call_is_content(format_: Format, text: str) -> None:
    assert joined(parse(format_, [text])) == [Content(text)]


def test_events_come_in_order_and_as_soon_as_they_can() -> None:
    parser = HERMES.parser(lambda: "id")
    assert parser.feed("Hi <tool_") == [Content("Hi ")]
    assert parser.feed('call>{"name": "f", "arguments": {') == [CallStart(0, "id", "f"), Arguments(0, "{")]
    assert parser.feed('"a"') == [Arguments(0, '"a"')]
    assert parser.feed(": 1}}</tool") == [Arguments(0, ": 1}"), CallEnd(0)]
    assert parser.feed("_call>!") == [Content("!")]
    assert parser.finish() == []


def test_a_call_behind_what_looked_like_one_is_found_in_pieces() -> None:
    text = '{"{"name": "f", "arguments": {"a": 1}}'
    whole = joined(parse(PLAIN_JSON, [text]))
    assert [type(event) for event in whole] == [Content, CallStart, Arguments, CallEnd]
    assert joined(parse(PLAIN_JSON, list(text))) == whole


SNIPPETS = [
    *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", F, G, "[", "]", "{", "}"),
    *("<|channel|>commentary to=functions.", "<|message|>"),
    *('{"name": "f", ', '"arguments": ', '"', "\\", "\\u00", ", ", ";", ":", "f", "12", "1.", "true", "ü🦜", "\n", " "),
]


@pytest.mark.parametrize("format_", FORMATS, ids=lambda each: each.name)
@given(text=st.lists(st.sampled_from(SNIPPETS), max_size=12).map("".join), data=st.data())
def test_pieces_of_any_size_give_the_same(format_: Format, text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=len(text))))
    pieces = [text[i:j] for i, j in itertools.pairwise([0, *cuts, len(text)])]
    whole = joined(parse(format_, [text]))
    assert joined(parse(format_, pieces)) == whole
    assert joined(parse(format_, list(text))) == whole
    check_nothing_is_lost(text, whole)


MARKUP = r"""(?: \s | </?tool_call>
    | <\|channel\|>commentary[ ]to=functions\.[\w.]*<\|message\|>
    | <\|python_tag\|> | \[TOOL_CALLS\]\s*[\w.]*(?:\[CALL_ID\]\w*|\[ARGS\])*
    | [\[\]{},;:] | "name": | "[fg]" | "arguments": | "parameters": )*"""


def check_nothing_is_lost(text: str, events: Sequence[Event]) -> None:
    """All of the text is content or arguments, in its order, or marks of a call that was told of."""
    told = [
        re.escape(event.text)
        for event in events
        # A call without arguments has made-up ones.
        if isinstance(event, Content) or (isinstance(event, Arguments) and event.text != "{}")
    ]
    assert re.fullmatch(MARKUP.join(["", *told, ""]), text, re.VERBOSE)
    if not any(isinstance(event, CallStart) for event in events):
        assert joined(events) == ([Content(text)] if text else [])


@pytest.mark.parametrize(("format_", "text", "content", "calls"), CALLS)
def test_cut_anywhere_nothing_is_lost(format_: Format, text: str, content: str, calls: Any) -> None:
    """A call that breaks off before its arguments is content; its arguments break off where the text does."""
    for end in range(len(text)):
        found, made = content_and_calls(parse(format_, [text[:end]]))
        for (name, arguments), (wanted, whole) in zip(made, calls, strict=False):
            assert name == wanted
            assert whole.startswith(arguments)
        if not made:
            assert found == text[:end]


@pytest.mark.parametrize("format_", FORMATS, ids=lambda each: each.name)
@pytest.mark.parametrize(
    "unit",
    ["<", "[", "{", '{"name": "', '{"arguments": ', "<tool_call>{", "[TOOL_CALLS][", "<|python_tag|>{", '\\"', " ", F],
)
def test_work_grows_with_the_text_and_no_faster(format_: Format, unit: str) -> None:
    """No text makes a parser look at characters again and again: its generator takes a bounded number of turns."""

    class Counted(format_.parser):  # type: ignore[name-defined, misc]
        num_looks = 0

        def _peek(self) -> Any:
            type(self).num_looks += 1
            return super()._peek()

    counts = []
    for times in (200, 800):
        Counted.num_looks = 0
        parser = Counted(lambda: "id")
        parser.feed(unit * times)
        parser.finish()
        counts.append(Counted.num_looks)
    assert counts[1] <= 4.1 * counts[0] + 50


@pytest.mark.parametrize("text", ['{"arguments": [', '{"arguments": "', "{ ", '{"name": "f", "arguments": ['])
def test_what_is_held_is_not_copied_with_every_piece(text: str) -> None:
    """And turns out to be no call at the end."""
    parser = LLAMA3.make_parser()
    told = parser.feed(text)
    pieces = [text[-1] * 4] * 1000
    for piece in pieces:
        told += parser.feed(piece)
        assert len(parser._text) == len(piece)
    told += parser.finish()
    assert joined(told) == [Content(text + "".join(pieces))]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=JSON_VALUES, indent=st.sampled_from([None, 1]), ascii_=st.booleans())
def test_the_scanner_finds_the_end_of_any_json(value: Any, indent: int | None, ascii_: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    scanner = JsonScanner()
    assert scanner.scan(text + " ,") == len(text)
    assert scanner.done


@given(text=st.lists(st.sampled_from([*'{}[],:"\\u0a1-.e \n', "true", '"a"']), max_size=14).map("".join))
def test_the_scanner_takes_what_python_takes(text: str) -> None:
    scanner = JsonScanner()
    end = scanner.scan(text + "\0")
    try:
        json.loads(text)
    except ValueError:
        assert not (scanner.done and not text[end:].strip(" \n"))
    else:
        assert scanner.done
        assert not text[end:].strip(" \n")


@pytest.mark.parametrize(
    ("template", "format_"),
    [
        (None, PLAIN_JSON),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", PLAIN_JSON),
        ("return within <tool_call></tool_call>: <tool_call>\n{{ call | tojson }}\n</tool_call>", HERMES),
        ("{{ '<|start_header_id|>' }}{{ '<|python_tag|>' }}", LLAMA3),
        ('{{ \'<|start_header_id|>\' }}Respond as {"name": function name, "parameters": dictionary}', LLAMA3),
        ("<|start|>assistant<|channel|>final<|message|>{{ content }}<|end|>", HARMONY),
        ("{{ '[TOOL_CALLS] [' }}{{ call | tojson }}", MISTRAL),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}", MISTRAL_NAMED),
    ],
)
def test_a_template_tells_the_format(template: str | None, format_: Format) -> None:
    assert detect(template) is format_


def test_ids_differ_and_mistrals_are_short() -> None:
    assert len({HERMES.make_id() for _ in range(100)}) == 100
    assert re.fullmatch("[A-Za-z0-9]{9}", MISTRAL.make_id())
