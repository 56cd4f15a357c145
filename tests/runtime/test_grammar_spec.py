"""What requests may say of their grammar, in whose dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.spec import MAX_BYTES, MAX_CHOICES, GrammarSpec, make_spec, read_spec

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))


@pytest.mark.parametrize(
    ("body", "spec"),
    [
        ({}, None),
        ({"grammar": None, "guided_json": None, "response_format": {"type": "text"}}, None),
        ({"structured_outputs": {"json": None, "json_object": False}}, None),
        ({"grammar": {"type": "regex", "value": "a+"}}, GrammarSpec("regex", "a+")),
        ({"grammar": {"type": "yacc", "value": "%%\na: 'b';"}}, GrammarSpec("yacc", "%%\na: 'b';")),
        ({"grammar": {"type": "json_schema", "value": SCHEMA}}, GrammarSpec("json_schema", TEXT)),
        ({"grammar": {"type": "json_schema", "value": TEXT}}, GrammarSpec("json_schema", TEXT)),
        ({"grammar": {"type": "lark", "value": 'start: "a"'}}, GrammarSpec("lark", 'start: "a"')),
        ({"grammar": {"type": "json_object"}}, GrammarSpec("json_object", "")),
        ({"response_format": {"type": "json_object"}}, GrammarSpec("json_object", "")),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
            GrammarSpec("json_schema", TEXT),
        ),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, GrammarSpec("json_schema", TEXT)),
        ({"structured_outputs": {"json": SCHEMA}}, GrammarSpec("json_schema", TEXT)),
        ({"structured_outputs": {"regex": "a+"}}, GrammarSpec("regex", "a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, GrammarSpec("choice", '["a","b"]')),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, GrammarSpec("gbnf", 'root ::= "a"')),
        ({"structured_outputs": {"json_object": True}}, GrammarSpec("json_object", "")),
        ({"guided_json": TEXT}, GrammarSpec("json_schema", TEXT)),
        ({"guided_regex": "a+"}, GrammarSpec("regex", "a+")),
        ({"guided_choice": ["a"]}, GrammarSpec("choice", '["a"]')),
        ({"guided_grammar": 'start: "a" # ::='}, GrammarSpec("lark", 'start: "a" # ::=')),
    ],
)
def test_a_request_says_it_in_one_of_four_dialects(body: dict[str, Any], spec: GrammarSpec | None) -> None:
    assert read_spec(body) == spec


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"grammar": "a+"}, "grammar", "must look like"),
        ({"grammar": {"type": "regexp", "value": "a"}}, "grammar.type", "did you mean regex"),
        ({"grammar": {"type": "regex", "value": 3}}, "grammar.value", "must be a string"),
        ({"grammar": {"type": "regex", "value": ""}}, "grammar.value", "must not be empty"),
        ({"grammar": {"type": "regex", "value": "\0"}}, "grammar.value", "NUL"),
        ({"grammar": {"type": "regex", "value": "\ud800"}}, "grammar.value", "surrogate"),
        ({"grammar": {"type": "lark", "value": "a" * (MAX_BYTES + 1)}}, "grammar.value", "at most 262144 bytes"),
        ({"grammar": {"type": "json_schema", "value": "{"}}, "grammar.value", "no JSON"),
        ({"response_format": {"type": "xml"}}, "response_format", "must be text, json_object or json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", '"schema"'),
        ({"response_format": "json"}, "response_format", "must be text"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "may have"),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object", "true or false"),
        ({"structured_outputs": []}, "structured_outputs", "must be an object"),
        ({"guided_json": [1]}, "guided_json", "an object, got list"),
        ({"guided_choice": []}, "guided_choice", "at least one"),
        ({"guided_choice": ["a", 1]}, "guided_choice", "list of strings"),
        ({"guided_choice": ["a"] * (MAX_CHOICES + 1)}, "guided_choice", "at most 4096"),
        ({"guided_json": {"const": 2**70}}, "guided_json", "no JSON"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(body: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as error:
        read_spec(body)
    assert (error.value.status, error.value.param) == (400, param)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"grammar": {"type": "regex", "value": "a"}, "guided_regex": "a"}, ("grammar.value", "guided_regex")),
        ({"guided_json": {}, "response_format": {"type": "json_object"}}, ("response_format", "guided_json")),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, ("structured_outputs.json", "structured_outputs.regex")),
    ],
)
def test_two_constraints_are_refused_by_name(body: dict[str, Any], fields: tuple[str, str]) -> None:
    with pytest.raises(RequestError) as error:
        read_spec(body)
    assert (error.value.code, error.value.param) == ("conflicting_parameters", fields[1])
    assert all(field in str(error.value) for field in fields)


def test_depth_is_bounded_before_anything_recursive_sees_it() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(RequestError, match="nested at most 100 deep"):
        read_spec({"guided_json": schema})
    while schema:  # else Python takes it apart by recursion
        schema = schema.pop("items", None)


def test_options_of_the_compiler_are_not_the_callers() -> None:
    """With other separators the output would be no JSON; JSON Schema ignores keywords that it does not know."""
    spec = make_spec("json_schema", SCHEMA | {"x-guidance": {"item_separator": ";"}})
    assert spec == GrammarSpec("json_schema", TEXT)
