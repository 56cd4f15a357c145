"""Grammars with which a model can write nothing but calls, in the words of its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from mistralrs_onnx.runtime.grammar.lark import literal, quoted_regex
from mistralrs_onnx.server.reasoning import CHANNELS, Tags

from .formats import HARMONY, HARMONY_START, HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, PLAIN_JSON, Format
from .tools import Choice, Tool

X_GUIDANCE = "x-guidance"  # llguidance's options in a schema: ours, never those of a request
OPTIONS = {X_GUIDANCE: {"whitespace_pattern": r"[ \t\n\r]{1,40}"}}  # without an end a model may write spaces for ever


class Layout(NamedTuple):
    """What stands around calls and their arguments; `NAME` in `head` is the name of the function."""

    start: str
    head: str
    tail: str
    between: str
    end: str


OBJECT = '{"name": "NAME", "arguments": '
LAYOUTS: Mapping[str, Layout] = {
    HERMES.name: Layout("<tool_call>\n", OBJECT, "}", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
    LLAMA3.name: Layout("", '{"name": "NAME", "parameters": ', "}", "; ", ""),
    MISTRAL.name: Layout("[TOOL_CALLS][", OBJECT, "}", ", ", "]"),
    MISTRAL_NAMED.name: Layout("[TOOL_CALLS]", "NAME[ARGS]", "", "[TOOL_CALLS]", ""),
    HARMONY.name: Layout(HARMONY_START, "NAME<|message|>", "", HARMONY_START, ""),
    PLAIN_JSON.name: Layout("[", OBJECT, "}", ", ", "]"),
}


def tool_grammar(
    tools: Sequence[Tool],
    choice: Choice,
    format_: Format,
    *,
    parallel: bool = True,
    thoughts: Tags | None = None,
    is_open: bool = False,
) -> str:
    """Lark, as llguidance reads it, of one call or, if `parallel`, of one or more, with arguments that fit the schema.

    `thoughts`: the model may think first, between these tags (not in channels); with `is_open` it already does.
    Marks are written as text, never as special tokens.
    """
    thoughts = None if thoughts == CHANNELS else thoughts
    chosen = [tool for tool in tools if choice.name in (None, tool.name)]
    layout = LAYOUTS[format_.name]
    calls = _sequence([literal(layout.start), "call", f"({literal(layout.between)} call)*" if parallel else ""])
    rules = [
        f"start: {_thinking(thoughts, is_open)}{calls}{' ' + literal(layout.end) if layout.end else ''}",
        f"call: {' | '.join(f'call_{i}' for i in range(len(chosen)))}",
    ]
    for i, tool in enumerate(chosen):
        head = literal(layout.head.replace("NAME", tool.name))
        rules.append(f"call_{i}: {_sequence([head, f'arguments_{i}', literal(layout.tail)])}")
        rules.append(f"arguments_{i}: %json {orjson.dumps(_schema(tool.parameters)).decode()}")
    return "\n".join(rules + _thoughts(thoughts)) + "\n"


def _sequence(parts: Sequence[str]) -> str:
    return " ".join(part for part in parts if part not in ("", '""'))


def _thinking(thoughts: Tags | None, is_open: bool) -> str:
    if thoughts is None:
        return ""
    return "thoughts SPACE? " if is_open else f"({literal(thoughts.opening)} thoughts SPACE?)? "


def _thoughts(thoughts: Tags | None) -> list[str]:
    if thoughts is None:
        return []
    return [f"thoughts[lazy]: /(?s:.*){quoted_regex(thoughts.closing)}/", r"SPACE: /[ \n]{1,4}/"]


def _schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", **parameters} | OPTIONS
