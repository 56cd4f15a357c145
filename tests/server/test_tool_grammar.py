"""Whatever a model would write, the grammar makes it calls that the parser finds and the schemas allow."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import jsonschema
import pytest
from grammar_walks import END, Walk, byte_tokenizer, compiler_of

from mistralrs_onnx.runtime.grammar.compiler import Grammar, GrammarCompiler
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec
from mistralrs_onnx.server.reasoning import CHANNELS, THINK, Reasoning
from mistralrs_onnx.server.tool_calls.events import Arguments, CallStart, Content
from mistralrs_onnx.server.tool_calls.formats import FORMATS, HARMONY, HERMES, Format
from mistralrs_onnx.server.tool_calls.grammar import tool_grammar
from mistralrs_onnx.server.tool_calls.tools import Choice, as_tools

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
TOOLS = as_tools(
    [
        {"type": "function", "function": {"name": name} | ({} if parameters is None else {"parameters": parameters})}
        for name, parameters in {
            "now": None,
            "get-weather": {
                "type": "object",
                "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1}},
                "required": ["city"],
                "additionalProperties": False,
            },
            "follow.links": {"$defs": {"node": NODE}, "properties": {"node": {"$ref": "#/$defs/node"}}},
        }.items()
    ]
)


@lru_cache(maxsize=1)
def compiler() -> GrammarCompiler:
    return compiler_of(byte_tokenizer(), END)


def compiled(text: str) -> Grammar:
    return compiler().compile(GrammarSpec("lark", text, "tools"))


def calls(format_: Format, text: str) -> tuple[str, list[tuple[str, Any]]]:
    parser = format_.make_parser()
    events = parser.feed(text) + parser.finish()
    content = "".join(event.text for event in events if isinstance(event, Content))
    names = [event.name for event in events if isinstance(event, CallStart)]
    texts = [""] * len(names)
    for event in events:
        if isinstance(event, Arguments):
            texts[event.index] += event.text
    return content, [(name, json.loads(text)) for name, text in zip(names, texts, strict=True)]


def walks(grammar: Grammar, num: int) -> list[str]:
    found = [Walk(grammar, byte_tokenizer(), seed) for seed in range(num)]
    assert all(walk.num_special == 0 for walk in found)
    return [walk.text for walk in found if walk.is_whole]


@pytest.mark.parametrize("format_", FORMATS, ids=lambda each: each.name)
@pytest.mark.parametrize("parallel", [True, False])
def test_all_that_a_grammar_allows_are_calls(format_: Format, parallel: bool) -> None:
    grammar = compiled(tool_grammar(TOOLS, Choice("required"), format_, parallel=parallel))
    schemas = {tool.name: tool.parameters for tool in TOOLS}
    texts = walks(grammar, 24)
    assert len(texts) > 12
    counts, names = set(), set()
    for text in texts:
        content, made = calls(format_, text)
        assert content == ""
        assert made
        counts.add(len(made))
        for name, arguments in made:
            names.add(name)
            jsonschema.validate(arguments, schemas[name])
    assert names == set(schemas)
    assert (max(counts) > 1) == parallel


def test_a_named_tool_is_the_only_one() -> None:
    grammar = compiled(tool_grammar(TOOLS, Choice("required", "get-weather"), HERMES, parallel=False))
    texts = walks(grammar, 8)
    assert texts
    assert {name for text in texts for name, _ in calls(HERMES, text)[1]} == {"get-weather"}


def accepts(grammar: Grammar, text: str) -> bool:
    matcher = grammar.matcher()
    token_ids = byte_tokenizer().encode(text).ids
    if matcher.validate(token_ids) < len(token_ids):
        return False
    matcher.accept(token_ids)
    return matcher.can_end


def test_a_model_may_think_first() -> None:
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    choice = Choice("required", "now")
    thinking = compiled(tool_grammar(TOOLS, choice, HERMES, thoughts=THINK))
    opened = compiled(tool_grammar(TOOLS, choice, HERMES, thoughts=THINK, is_open=True))
    plain = compiled(tool_grammar(TOOLS, choice, HERMES))
    thoughts = "\nHm <tool_call>, so </thin\n</think>\n\n"
    assert [accepts(each, call) for each in (thinking, opened, plain)] == [True, False, True]
    assert [accepts(each, f"<think>{thoughts}{call}") for each in (thinking, opened, plain)] == [True, True, False]
    assert [accepts(each, thoughts + call) for each in (thinking, opened, plain)] == [False, True, False]
    assert not accepts(thinking, f"<think>{thoughts}well {call}")
    assert Reasoning(THINK, is_open=True).feed(thoughts + call).content == call


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "a list of tools"),
        ([{"type": "retrieval"}], "tools.0: only tools of type 'function'"),
        ([{"type": "function"}], "tools.0 must look like"),
        ([{"type": "function", "function": {"name": "a b"}}], "a name has 1 to 64 letters"),
        ([{"type": "function", "function": {"name": "f", "parameters": []}}], "parameters must be a JSON schema"),
        (
            [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
            "must be of type 'object'",
        ),
        ([{"type": "function", "function": {"name": "f", "description": 1}}], "description must be a string"),
        ([{"type": "function", "function": {"name": "f"}}] * 2, "names must differ, got 'f' twice"),
        ([{"type": "function", "function": {"name": "f"}}] * 129, "at most 128 tools, got 129"),
        (
            [{"type": "function", "function": {"name": "f", "parameters": {"description": "x" * 65536}}}],
            "at most 65536 bytes of parameters",
        ),
    ],
)
def test_tools_that_are_none(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_tools(value)


@pytest.mark.parametrize(("depth", "message"), [(35, "nested at most 64 deep"), (400, "Recursion limit")])
def test_deep_schemas_are_refused(depth: int, message: str) -> None:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"properties": {"p": schema}}
    with pytest.raises(ValueError, match=message):
        as_tools([{"type": "function", "function": {"name": "f", "parameters": schema}}])


def test_channels_are_no_tags_to_think_between() -> None:
    assert tool_grammar(TOOLS, Choice(), HARMONY, thoughts=CHANNELS) == tool_grammar(TOOLS, Choice(), HARMONY)
