"""What a request may ask the output to be, read from the fields of its body and held to limits; compiles nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, get_args

import orjson

from mistralrs_onnx.runtime.errors import RequestError

GrammarKind = Literal["regex", "json_schema", "json_object", "lark", "gbnf", "choice", "yacc"]
KINDS: tuple[GrammarKind, ...] = get_args(GrammarKind)

MAX_BYTES = 256 * 1024
MAX_DEPTH = 100  # of a schema; llguidance follows 128, of which some are its own
MAX_CHOICES = 4096
BLANK = "\t\n\r"  # a regular expression may be a space
X_GUIDANCE = "x-guidance"  # llguidance's options inside a schema, with which it would no longer write JSON


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """`text` is the source in the language that `kind` names: JSON for a schema and for choices, empty for json_object.

    Equal specs mean equal grammars; `param`, the request field to blame, does not count.
    """

    kind: GrammarKind
    text: str
    param: str = field(default="grammar", compare=False)

    def __post_init__(self) -> None:
        num_bytes = len(self.text.encode("utf-8", "surrogatepass"))
        if num_bytes > MAX_BYTES:
            raise _invalid(f"{self.param} may have at most {MAX_BYTES} bytes, got {num_bytes}", self.param)
        if "\0" in self.text:
            raise _invalid(f"{self.param} must not contain NUL characters", self.param)
        if not self.text.strip(BLANK) and self.kind != "json_object":
            raise _invalid(f"{self.param} must not be empty", self.param)
        try:
            self.text.encode()
        except UnicodeEncodeError:
            raise _invalid(f"{self.param} contains half a surrogate pair", self.param) from None


def read_spec(body: Mapping[str, Any]) -> GrammarSpec | None:
    """The one constraint that a request's body asks for, None for none.

    Reads `grammar`, `response_format`, `structured_outputs` and the `guided_*` fields, where null asks for nothing.
    Raises RequestError: for a form that is not known, for limits, and for two constraints, naming both fields.
    """
    found = [spec for name, read in READERS.items() if (spec := _read(read, body.get(name), name)) is not None]
    if len(found) > 1:
        message = f"{found[0].param} and {found[1].param} both constrain the output: leave one of them out"
        raise RequestError(message, code="conflicting_parameters", param=found[1].param)
    return found[0] if found else None


def make_spec(kind: str, value: Any, param: str = "grammar") -> GrammarSpec:
    """`kind` is one of KINDS or llguidance's `json`; `value` a string, for a schema also an object, for choices a list.

    Raises RequestError.
    """
    kind = {"json": "json_schema", "json-schema": "json_schema"}.get(kind, kind)
    if kind == "json_schema":
        return _schema(value, param)
    if kind == "json_object":
        return GrammarSpec("json_object", "", param)
    if kind == "choice":
        return _choice(value, param)
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise _invalid(f"{param} must be one of {', '.join(KINDS)}, got {kind!r:.64}{hint}", param)
    return GrammarSpec(kind, _string(value, param), param)


def _read(read: Callable[[Any, str], GrammarSpec | None], value: Any, name: str) -> GrammarSpec | None:
    return None if value is None else read(value, name)


def _grammar(value: Any, name: str) -> GrammarSpec:
    """The form of mistral.rs: {"type": ..., "value": ...}."""
    match value:
        case {"type": str(kind), "value": inner} if len(value) == 2:
            return make_spec(kind, inner, f"{name}.value" if kind in KINDS else f"{name}.type")
        case {"type": "json_object"} if len(value) == 1:
            return make_spec("json_object", "", name)
    raise _invalid(f'{name} must look like {{"type": "regex", "value": "..."}} with a type of {", ".join(KINDS)}', name)


def _response_format(value: Any, name: str) -> GrammarSpec | None:
    """OpenAI's form, with llama.cpp's `schema` beside json_object. `strict` or not, a schema is always enforced."""
    match value:
        case {"type": "text"}:
            return None
        case {"type": "json_object", "schema": dict(schema)}:
            return _schema(schema, f"{name}.schema")
        case {"type": "json_object"}:
            return make_spec("json_object", "", name)
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return _schema(schema, f"{name}.json_schema.schema")
        case {"type": "json_schema"}:
            raise _invalid(f'{name} must hold "json_schema": {{"name": ..., "schema": {{...}}}}', name)
    raise _invalid(f"{name}.type must be text, json_object or json_schema, got {value!r:.64}", name)


def _structured_outputs(value: Any, name: str) -> GrammarSpec | None:
    """vLLM's form: one of json, regex, choice, grammar and json_object."""
    if not isinstance(value, dict):
        raise _invalid(f"{name} must be an object, got {type(value).__name__}", name)
    given = {key: inner for key, inner in value.items() if inner is not None and inner is not False}
    if unknown := sorted(set(given) - set(STRUCTURED)):
        message = f"{name} may have {', '.join(STRUCTURED)}, got {unknown[0]!r:.64}"
        raise RequestError(message, code="unsupported_parameter", param=f"{name}.{unknown[0]:.64}")
    if len(given) > 1:
        first, second = list(given)[:2]
        message = f"{name}.{first} and {name}.{second} both constrain the output: leave one of them out"
        raise RequestError(message, code="conflicting_parameters", param=f"{name}.{second}")
    for key, inner in given.items():
        return STRUCTURED[key](inner, f"{name}.{key}")
    return None


def _schema(value: Any, param: str) -> GrammarSpec:
    """A schema as an object or as its text. Keys keep their order, which is the order of the output."""
    if isinstance(value, str):
        value = _parsed(GrammarSpec("json_schema", value, param).text, param)
    if not isinstance(value, dict):
        raise _invalid(f"{param} must be a JSON schema, an object, got {type(value).__name__}", param)
    _check_depth(value, param)
    kept = {key: inner for key, inner in value.items() if key != X_GUIDANCE}
    try:
        return GrammarSpec("json_schema", orjson.dumps(kept).decode(), param)
    except (orjson.JSONEncodeError, TypeError) as error:
        raise _invalid(f"{param} is no JSON: {error}", param) from None


def _parsed(text: str, param: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"{param} is no JSON: {error}", param) from None


def _check_depth(value: Any, param: str) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
        if not level:
            return
    raise _invalid(f"{param} may be nested at most {MAX_DEPTH} deep", param)


def _choice(value: Any, param: str) -> GrammarSpec:
    if isinstance(value, str):
        value = _parsed(GrammarSpec("choice", value, param).text, param)
    if not isinstance(value, list) or not value or not all(isinstance(choice, str) for choice in value):
        raise _invalid(f"{param} must be a list of strings with at least one, got {value!r:.64}", param)
    if len(value) > MAX_CHOICES:
        raise _invalid(f"{param} may have at most {MAX_CHOICES} choices, got {len(value)}", param)
    try:
        return GrammarSpec("choice", orjson.dumps(value).decode(), param)
    except orjson.JSONEncodeError as error:
        raise _invalid(f"{param}: {error}", param) from None


def _regex(value: Any, param: str) -> GrammarSpec:
    return make_spec("regex", value, param)


def _ebnf(value: Any, param: str) -> GrammarSpec:
    """vLLM's `grammar`: Lark if it looks like it (a rule `start:`), else GBNF."""
    text = _string(value, param)
    is_gbnf = any("::=" in line.split("#", 1)[0] for line in text[:MAX_BYTES].splitlines())
    return GrammarSpec("gbnf" if is_gbnf else "lark", text, param)


def _object(value: Any, param: str) -> GrammarSpec:
    if value is not True:
        raise _invalid(f"{param} must be true or false, got {value!r:.64}", param)
    return GrammarSpec("json_object", "", param)


def _string(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise _invalid(f"{param} must be a string, got {type(value).__name__}", param)
    return value


def _invalid(message: str, param: str) -> RequestError:
    return RequestError(message, code="invalid_grammar", param=param)


STRUCTURED: Mapping[str, Callable[[Any, str], GrammarSpec]] = {
    "json": _schema,
    "regex": _regex,
    "choice": _choice,
    "grammar": _ebnf,
    "json_object": _object,
}
READERS: Mapping[str, Callable[[Any, str], GrammarSpec | None]] = {
    "grammar": _grammar,
    "response_format": _response_format,
    "structured_outputs": _structured_outputs,
    "guided_json": _schema,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _ebnf,
}
