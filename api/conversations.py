"""Messages as programs write them, and as chat templates read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mistralrs_onnx.runtime.errors import RequestError

FORM = "a message is a dict with a role and its content"

Message = Mapping[str, Any]
Conversation = Sequence[Message]


def conversation_list(conversations: Conversation | Sequence[Conversation]) -> list[Conversation]:
    """One conversation as a list of it."""
    is_one = len(conversations) == 0 or isinstance(conversations[0], Mapping)
    return cast(list[Conversation], [conversations] if is_one else list(conversations))


def for_template(message: Message) -> dict[str, Any]:
    """Parts of text joined, and the arguments of calls as objects. Raises RequestError."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"{FORM}, got {message!r:.64}", param="messages")
    # Templates know OpenAI's newer name for the system's role only rarely.
    role = "system" if message["role"] == "developer" else message["role"]
    said = {name: value for name, value in message.items() if value is not None}
    calls = [_called(call) for call in said.get("tool_calls", ())]
    return {**said, "role": role, "content": _text(said.get("content", ""))} | ({"tool_calls": calls} if calls else {})


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(map(_part, content))
    raise RequestError(f"the content of a message is text or a list of parts, got {content!r:.64}", param="messages")


def _part(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": str(kind)} if kind != "text":
            raise RequestError(f"only parts of type 'text' can be read, got {kind!r:.64}", param="messages")
    raise RequestError(f"a part must look like {{'type': 'text', 'text': '...'}}, got {part!r:.64}", param="messages")


def _called(call: Any) -> Message:
    """Templates write the arguments out themselves; what is no object, because the model erred, stays text."""
    match call:
        case {"function": {"name": str(), "arguments": str(arguments)}}:
            return {**call, "function": {**call["function"], "arguments": _parsed(arguments)}}
        case {"function": {"name": str()}}:
            return cast(Message, call)
    message = f"a call must look like {{'function': {{'name': ..., 'arguments': ...}}}}, got {call!r:.64}"
    raise RequestError(message, param="messages")


def _parsed(arguments: str) -> Any:
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
