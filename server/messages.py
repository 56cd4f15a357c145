"""The messages of a chat, as clients send them and as chat templates read them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_PARTS = 256
MAX_CALLS = 128


def join_parts(content: Any) -> Any:
    """A message's list of text parts as one string."""
    if not isinstance(content, list):
        return content
    if len(content) > MAX_PARTS:
        raise ValueError(f"at most {MAX_PARTS} content parts, got {len(content)}")
    return "".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": str(kind)} if kind != "text":
            raise ValueError(f"this model reads only parts of type 'text', got {kind[:32]!r}")
    raise ValueError("each content part must look like {'type': 'text', 'text': '...'}")


class CalledFunction(BaseModel):
    """A function and its arguments, which are the text of a JSON object."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str = Field(min_length=1, max_length=128)
    arguments: str | dict[str, Any] | None = None

    def for_template(self) -> dict[str, Any]:
        """Templates write the arguments out themselves; what is no object, because the model erred, stays text."""
        arguments = self.arguments or "{}"
        if isinstance(arguments, str):
            try:
                parsed = json.loads(arguments)
            except (ValueError, RecursionError):
                parsed = None
            arguments = parsed if isinstance(parsed, dict) else arguments
        return {"name": self.name, "arguments": arguments}


class CalledTool(BaseModel):
    """A call that the assistant made."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str | None = Field(None, max_length=128)
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        identity = {} if self.id is None else {"id": self.id}
        return {**identity, "type": self.type, "function": self.function.for_template()}


class Message(BaseModel):
    """One turn of a chat: also the assistant's calls of tools, and what a tool gave."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: str = Field(min_length=1, max_length=64)
    content: Annotated[str | None, BeforeValidator(join_parts)] = None
    name: str | None = Field(None, max_length=128)
    tool_calls: list[CalledTool] | None = Field(None, max_length=MAX_CALLS)
    tool_call_id: str | None = Field(None, max_length=128)
    reasoning_content: str | None = None
    reasoning: str | None = None  # as newer servers call it
    function_call: None = None

    def for_template(self) -> dict[str, Any]:
        """Only what is said, under the names that transformers gives to templates."""
        # Templates know OpenAI's newer name for the system's role only rarely.
        role = "system" if self.role == "developer" else self.role
        said: dict[str, Any] = {"name": self.name, "tool_call_id": self.tool_call_id}
        if self.tool_calls:
            said["tool_calls"] = [call.for_template() for call in self.tool_calls]
        thoughts = self.reasoning if self.reasoning_content is None else self.reasoning_content
        said |= {"reasoning_content": thoughts, "thinking": thoughts}
        return {"role": role, "content": self.content or ""} | {k: v for k, v in said.items() if v is not None}
