"""Messages as templates read them."""

from __future__ import annotations

from typing import Any

import pytest

from mistralrs_onnx import RequestError
from mistralrs_onnx.conversations import conversation_list, for_template

HI = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(("given", "expected"), [([HI], [[HI]]), ([[HI], [HI, HI]], [[HI], [HI, HI]]), ([], [[]])])
def test_one_conversation_is_told_from_many(given: Any, expected: Any) -> None:
    assert conversation_list(given) == expected


def test_parts_are_joined_and_what_is_none_is_left_out() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert for_template({"role": "user", "content": parts, "name": None}) == {"role": "user", "content": "ab"}
    assert for_template({"role": "developer", "content": "x"}) == {"role": "system", "content": "x"}
    assert for_template({"role": "assistant", "content": None}) == {"role": "assistant", "content": ""}
    tool = {"role": "tool", "content": "4", "tool_call_id": "1"}
    assert for_template(tool) == tool


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [('{"a": 1}', {"a": 1}), ("", {}), ("[1]", "[1]"), ("{", "{"), ({"a": 1}, {"a": 1})],
)
def test_arguments_of_calls_are_objects_where_they_can_be(arguments: Any, expected: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    told = for_template({"role": "assistant", "content": None, "tool_calls": [call]})
    assert told["tool_calls"] == [call | {"function": {"name": "add", "arguments": expected}}]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("hi", "a message is a dict with a role and its content, got 'hi'"),
        ({"content": "hi"}, "a message is a dict with a role"),
        ({"role": "user", "content": 3}, "the content of a message is text or a list of parts, got 3"),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            "only parts of type 'text' can be read, got 'image_url'",
        ),
        ({"role": "user", "content": ["a"]}, "a part must look like"),
        ({"role": "assistant", "tool_calls": [{"name": "add"}]}, "a call must look like"),
    ],
)
def test_mistakes_are_named(message: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        for_template(message)
