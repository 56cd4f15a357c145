"""The routes of the server and the fields of their bodies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from mistralrs_onnx.server.schemas import (
    IGNORED,
    UNSUPPORTED,
    ActivateRequest,
    ChatRequest,
    CompletionRequest,
    LoadRequest,
    ReIsqRequest,
    UnloadRequest,
)

from .route_notes import FIELDS, ROUTES, TYPES
from .text import code, table

ABOVE = """# HTTP

The API of OpenAI, with fields of vLLM and of mistral.rs under their names. Mistakes are answered with
`{"error": {"message", "type", "param", "code"}}` and status 400 (the request), 404, 405, 413, 415, 429 (too many
requests, with `Retry-After`), 500 (a fault of ours) or 503 (loading or stopping).

"""
BODIES: Mapping[str, type[BaseModel]] = {
    "POST /v1/chat/completions": ChatRequest,
    "POST /v1/completions": CompletionRequest,
    "POST /re_isq": ReIsqRequest,
    "POST /activate_adapters": ActivateRequest,
    "POST /v1/load_lora_adapter": LoadRequest,
    "POST /v1/unload_lora_adapter": UnloadRequest,
}
WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "object": "object"}


def page() -> str:
    text = ABOVE + table(["route", ""], [(code(route), note) for route, note in ROUTES.items()])
    own = {name for name in ChatRequest.model_fields if name in CompletionRequest.model_fields}
    own -= {"logprobs"}  # means another thing there
    text += "\n## Fields of both chat and completions\n\n" + _table(ChatRequest, own)
    for route, schema in BODIES.items():
        text += f"\n## {route}\n\n" + _table(schema, schema.model_fields.keys() - own)
    unread = sorted(IGNORED - ChatRequest.model_fields.keys())
    text += "\n## Taken without effect\n\n" + ", ".join(map(code, unread)) + ".\n"
    refused = [name for name in UNSUPPORTED if name not in ChatRequest.model_fields]
    text += "\n## Refused\n\nUnless they ask for nothing: " + ", ".join(map(code, sorted(refused))) + ".\n"
    return text + "\nOther fields are ignored, and the log of the server says so once.\n"


def _table(schema: type[BaseModel], names: set[str]) -> str:
    properties: Mapping[str, Any] = schema.model_json_schema()["properties"]
    rows = [_row(schema, name, properties[name]) for name in schema.model_fields if name in names]
    return table(["field", "type", ""], rows)


def _row(schema: type[BaseModel], name: str, said: Mapping[str, Any]) -> tuple[str, str, str]:
    needed = ", required" if schema.model_fields[name].is_required() else ""
    note = FIELDS.get(f"{schema.__name__}.{name}") or FIELDS[name]
    return code(name), TYPES.get(name, _type(said)) + needed, note


def _type(said: Mapping[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_types(said))) or "any"


def _types(said: Mapping[str, Any]) -> Iterator[str]:
    for each in said.get("anyOf", [said]):
        kind = each.get("type")
        if kind == "array":
            yield f"list of {_type(each.get('items', {}))}"
        elif kind in WORDS:
            yield WORDS[kind] + _bounds({**said, **each})
        elif "$ref" in each:
            yield "object"


def _bounds(said: Mapping[str, Any]) -> str:
    low, high = said.get("minimum", said.get("ge")), said.get("maximum", said.get("le"))
    if low is not None and high is not None:
        return f", {low} to {high}"
    return "" if low is None else f", from {low}"
