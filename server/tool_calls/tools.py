"""The tools of a request, and which of them its answer may or must call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from mistralrs_onnx.runtime.errors import RequestError

MAX_TOOLS = 128
MAX_SCHEMA = 64 << 10  # bytes of the parameters of one
MAX_BYTES = 192 << 10  # of all of them, under what a grammar may have
MAX_DEPTH = 64
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client can call; `parameters`: the JSON schema of its arguments; `source`: as it was sent."""

    name: str
    parameters: Mapping[str, Any]
    source: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """`name`: the one tool to call; it, and "required", force a call."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None

    @property
    def is_forced(self) -> bool:
        return self.mode == "required"


def as_tools(value: Any) -> tuple[Tool, ...]:
    """From OpenAI's form. Raises ValueError with what is wrong and where."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"a list of tools is needed, got {type(value).__name__}")
    if len(value) > MAX_TOOLS:
        raise ValueError(f"at most {MAX_TOOLS} tools, got {len(value)}")
    tools = tuple(_as_tool(item, f"tools.{i}") for i, item in enumerate(value))
    names = [tool.name for tool in tools]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"names must differ, got {twice[0]!r} twice")
    num_bytes = _num_bytes(value, "tools")
    if num_bytes > MAX_BYTES:
        raise ValueError(f"at most {MAX_BYTES} bytes of tools, got {num_bytes}")
    return tools


def _as_tool(item: Any, where: str) -> Tool:
    match item:
        case {"type": "function", "function": {"name": str(name)} as function}:
            pass
        case {"type": str(kind)} if kind != "function":
            raise ValueError(f"{where}: only tools of type 'function' are supported, got {kind:.32}")
        case _:
            raise ValueError(f"{where} must look like {{'type': 'function', 'function': {{'name': ...}}}}")
    if not NAME.fullmatch(name):
        raise ValueError(f"{where}: a name has 1 to 64 letters, digits, '_', '-' or '.', got {name:.80}")
    description, parameters = function.get("description"), function.get("parameters")
    if not isinstance(description, str | None):
        raise ValueError(f"{where}: description must be a string")
    if not isinstance(parameters, dict | None):
        raise ValueError(f"{where}: parameters must be a JSON schema, an object")
    return Tool(name, NO_PARAMETERS if parameters is None else _checked(parameters, where), item)


def _checked(parameters: dict[str, Any], where: str) -> dict[str, Any]:
    num_bytes = _num_bytes(parameters, where)
    if num_bytes > MAX_SCHEMA:
        raise ValueError(f"{where}: at most {MAX_SCHEMA} bytes of parameters, got {num_bytes}")
    if parameters.get("type", "object") != "object":
        raise ValueError(f"{where}: parameters must be of type 'object', got {parameters['type']!s:.32}")
    level: list[Any] = [parameters]
    for _ in range(MAX_DEPTH):
        inner = [value for each in level for value in (each.values() if isinstance(each, dict) else each)]
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return parameters
    raise ValueError(f"{where}: parameters may be nested at most {MAX_DEPTH} deep")


def _num_bytes(value: Any, where: str) -> int:
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError as error:  # it goes less deep than when it reads
        raise ValueError(f"{where}: {error}") from None


def as_choice(value: Any) -> Choice:
    """From OpenAI's form. Raises ValueError."""
    match value:
        case None:
            return Choice()
        case "none" | "auto" | "required":
            return Choice(value)
        case {"type": "function", "function": {"name": str(name)}}:
            return Choice("required", name)
    raise ValueError("none, auto, required or {'type': 'function', 'function': {'name': ...}} is needed")


def check_choice(choice: Choice, tools: Sequence[Tool]) -> None:
    """Raises RequestError for a call that no tool is there for."""
    if choice.is_forced and not tools:
        raise RequestError("tool_choice asks for a call, and there are no tools: add some", param="tool_choice")
    names = [tool.name for tool in tools]
    if choice.name is not None and choice.name not in names:
        known = ", ".join(names[:8])
        message = f"tool_choice names {choice.name!r:.80}, which is not among the tools ({known:.300})"
        raise RequestError(message, param="tool_choice")
