"""The assistant's message out of a model's text: content, thoughts and calls, in OpenAI's words, whole or in deltas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .harmony import Harmony
from .reasoning import CHANNELS, Reasoning, Tags
from .tool_calls.events import Arguments, CallStart, Content, Event
from .tool_calls.formats import Format

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What to look for. `is_thinking`: the prompt has begun the thoughts. Not `parallel`: later calls are dropped."""

    tags: Tags | None = None
    is_thinking: bool = False
    format: Format | None = None
    parallel: bool = True


class Reply:
    """One answer, read as it comes: deltas for each piece of text, then those of `finish`."""

    def __init__(self, reading: Reading) -> None:
        self._reasoning = _splitter(reading)
        self._parser = reading.format.make_parser() if reading.format else None
        self._most_calls = None if reading.parallel else 1
        self._has_called = False

    def feed(self, text: str) -> list[JSON]:
        if self._reasoning is None:
            return self._content(text)
        parts = self._reasoning.feed(text)
        return _thoughts(parts.reasoning) + self._content(parts.content)

    def finish(self) -> list[JSON]:
        """What was held back."""
        deltas: list[JSON] = []
        if self._reasoning is not None:
            parts = self._reasoning.finish()
            deltas = _thoughts(parts.reasoning) + self._content(parts.content)
        return deltas + (self._told(self._parser.finish()) if self._parser else [])

    def finish_reason(self, reason: str) -> str:
        """After `finish`: an answer that ends where it should, with calls, ends for them."""
        return "tool_calls" if self._has_called and reason == "stop" else reason

    def _content(self, text: str) -> list[JSON]:
        if not text:
            return []
        return self._told(self._parser.feed(text)) if self._parser else [{"content": text}]

    def _told(self, events: Iterable[Event]) -> list[JSON]:
        return [delta for event in events if (delta := self._delta(event)) is not None]

    def _delta(self, event: Event) -> JSON | None:
        match event:
            case Content(text):
                return {"content": text}
            case CallStart(index, call_id, name) if self._is_wanted(index):
                self._has_called = True
                function = {"name": name, "arguments": ""}
                return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
            case Arguments(index, text) if self._is_wanted(index):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
        return None

    def _is_wanted(self, index: int) -> bool:
        return self._most_calls is None or index < self._most_calls


def _splitter(reading: Reading) -> Reasoning | Harmony | None:
    if reading.tags == CHANNELS:
        return Harmony()
    return Reasoning(reading.tags, is_open=reading.is_thinking) if reading.tags else None


def _thoughts(text: str) -> list[JSON]:
    return [{"reasoning_content": text}] if text else []


def merged(deltas: Iterable[JSON]) -> JSON:
    """The message that a client puts together from deltas; without content beside calls and thoughts it has null."""
    texts: dict[str, str] = {}
    calls: list[JSON] = []
    for delta in deltas:
        for key in ("reasoning_content", "content"):
            if key in delta:
                texts[key] = texts.get(key, "") + delta[key]
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(calls):
                calls.append({key: value for key, value in call.items() if key != "index"})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    nothing = None if calls or texts else ""
    return {"content": nothing, **texts} | ({"tool_calls": calls} if calls else {})
