"""What the parsers of all formats share: text that comes in pieces, calls as JSON objects, and content around them.

A parser is a generator that stops where the text does and goes on with the next piece, so that each character is read
once and pieces of any size give the same calls. What turns out to be no call is content, from the character on that
would have begun it. Names are not compared with the tools of the request: a caller is told of a call that it cannot
make, and can answer with an error (as in vLLM).
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from .events import Arguments, CallEnd, CallStart, Content, Event
from .json_scanner import SPACE, JsonScanner

NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
NAME_LETTERS = re.compile(r"[A-Za-z0-9_.:/-]*")
ARGUMENT_KEYS = ("arguments", "parameters")
OTHER_KEYS = ("id", "type")  # that models write beside them, without meaning here
KEY_BEGINNINGS = "apnit"

T = TypeVar("T")
Steps = Generator[None, None, T]


@dataclass(slots=True)
class _Call:
    """What is read of a call."""

    name: str | None = None
    arguments: str | None = None  # unless they were told of as they came
    is_told: bool = False


class Parser(ABC):
    """Feed it pieces of text, then `finish`. A subclass says where calls may begin and how they are written.

    A call is told of as soon as its name and the brace of its arguments are read, and its arguments as they come.
    Whoever gets them must expect them broken off or in error, as with every such API: what is no JSON any more is
    content again. White space alone before, between and after calls is dropped.
    """

    opening: ClassVar[re.Pattern[str]]  # matches where a call may begin, also if its text goes no further yet
    needs_arguments: ClassVar[bool] = False  # else a call without any has {}

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id
        self._events: list[Event] = []
        self._held: list[str] = []  # text of earlier pieces that is read and not told of
        self._text = ""
        self._mark = 0  # text before it is told of, that up to `_at` is read and held
        self._at = 0
        self._is_over = False
        self._num_calls = 0
        self._space: str | None = ""  # held before, between and after calls; None inside content
        self._steps = self._parse()

    def feed(self, piece: str) -> list[Event]:
        assert self._at == len(self._text), "a parser stops only where the text does"
        self._held.append(self._text[self._mark :])
        self._text, self._mark, self._at = piece, 0, 0
        next(self._steps, None)
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """What was held back, at the end of the text."""
        self._is_over = True
        events = self.feed("")
        if self._space and not self._num_calls:
            events.append(Content(self._space))
        return events

    @abstractmethod
    def _calls(self) -> Steps[None]:
        """Reads calls from an opening on, at least a character, and leaves what is none between mark and position."""

    def _parse(self) -> Steps[None]:
        while (yield from self._peek()):
            match = self.opening.search(self._text, self._at)
            self._at = match.start() if match else len(self._text)
            self._release()
            if match:
                yield from self._calls()
                self._release()

    def _release(self) -> None:
        """What is held is content."""
        text = "".join([*self._held, self._text[self._mark : self._at]])
        self._drop()
        if self._space is not None:
            text = self._space + text
            self._space = None if text.strip() else text
        if self._space is None and text:
            self._events.append(Content(text))

    def _drop(self) -> None:
        """What is held has been understood."""
        self._held.clear()
        self._mark = self._at

    def _peek(self) -> Steps[str]:
        """The next character, none at the end."""
        while self._at == len(self._text) and not self._is_over:
            yield
        return self._text[self._at : self._at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Goes behind all that the pattern, a repeated set of characters, matches, which it returns."""
        parts: list[str] = []
        while (yield from self._peek()):
            match = pattern.match(self._text, self._at)
            assert match is not None
            if match.end() == self._at:
                break
            self._at = match.end()
            parts.append(match.group())
        return "".join(parts)

    def _literal(self, text: str) -> Steps[bool]:
        """Goes behind the text, or to where it differs."""
        for letter in text:
            if (yield from self._peek()) != letter:
                return False
            self._at += 1
        return True

    def _json(self, on_text: Callable[[str], None], begun: str = "") -> Steps[bool]:
        """Goes behind a JSON value or to where it breaks; tells of its text as it comes. `begun`: what lies behind."""
        scanner = JsonScanner()
        if begun:
            scanner.scan(begun)
            on_text(begun)
        while (yield from self._peek()):
            start, self._at = self._at, scanner.scan(self._text, self._at)
            on_text(self._text[start : self._at])
            if scanner.done or scanner.broken:
                return scanner.done
        return False

    def _whole_json(self, begun: str = "") -> Steps[str | None]:
        parts: list[str] = []
        is_whole = yield from self._json(parts.append, begun)
        return "".join(parts) if is_whole else None

    def _string(self, beginnings: str = "") -> Steps[str | None]:
        """Of those that begin with one of these letters, if there are any."""
        if not (yield from self._literal('"')):
            return None
        if beginnings and (yield from self._peek()) not in beginnings:
            return None
        text = yield from self._whole_json('"')
        return None if text is None else str(json.loads(text))

    def _name(self) -> Steps[str | None]:
        """The name of a function that stands without quotes."""
        name = yield from self._skip(NAME_LETTERS)
        return name if NAME.fullmatch(name) else None

    def _objects(self, separators: str) -> Steps[bool]:
        """Calls as JSON objects with one of these characters between them; whether there was one."""
        if not (yield from self._object()):
            return False
        while True:
            yield from self._skip(SPACE)
            letter = yield from self._peek()
            if not letter or letter not in separators:
                return True
            self._at += 1
            yield from self._skip(SPACE)
            if not (yield from self._object()):
                return True

    def _array(self) -> Steps[bool]:
        """Calls in brackets; whether there was one."""
        if not (yield from self._literal("[")):
            return False
        yield from self._skip(SPACE)
        found = yield from self._objects(",")
        if found and (yield from self._literal("]")):
            self._drop()
        return found

    def _object(self) -> Steps[bool]:
        """One call as a JSON object: {"name": ..., "arguments": {...}}; whether it was one to its end."""
        call = _Call()
        if not (yield from self._literal("{")):
            return False
        beginnings = KEY_BEGINNINGS  # of the first, as where a call is looked for: or pieces could go behind another
        while True:
            yield from self._skip(SPACE)
            key = yield from self._string(beginnings)
            beginnings = ""
            yield from self._skip(SPACE)
            if key is None or not (yield from self._literal(":")):
                return False
            yield from self._skip(SPACE)
            if not (yield from self._field(key, call)):
                return False
            yield from self._skip(SPACE)
            if (yield from self._peek()) != ",":
                return (yield from self._close(call))
            self._at += 1

    def _field(self, key: str, call: _Call) -> Steps[bool]:
        """The value of a key; whether a call may have it."""
        if key == "name" and call.name is None:
            call.name = yield from self._string()
            return call.name is not None and NAME.fullmatch(call.name) is not None
        if key in ARGUMENT_KEYS and call.arguments is None:
            if call.name is not None and (yield from self._peek()) == "{":
                call.arguments, call.is_told = "", True
                return (yield from self._arguments(call.name))
            call.arguments = _object_text((yield from self._whole_json()))
            return call.arguments is not None
        return key in OTHER_KEYS and (yield from self._whole_json()) is not None

    def _close(self, call: _Call) -> Steps[bool]:
        if call.arguments is None and not self.needs_arguments:
            call.arguments = "{}"
        if call.name is None or call.arguments is None or not (yield from self._literal("}")):
            return False
        if not call.is_told:
            self._tell(call.name, call.arguments)
        self._drop()
        return True

    def _arguments(self, name: str) -> Steps[bool]:
        """A JSON object, told of as it comes; whether it was whole."""
        index = self._start(name)

        def tell(text: str) -> None:
            self._drop()
            if text:
                self._events.append(Arguments(index, text))

        is_whole = yield from self._json(tell)
        self._events.append(CallEnd(index))
        return is_whole

    def _tell(self, name: str, arguments: str) -> None:
        index = self._start(name)
        self._events += [Arguments(index, arguments), CallEnd(index)]

    def _start(self, name: str) -> int:
        index = self._num_calls
        self._num_calls += 1
        self._space = ""
        self._events.append(CallStart(index, self._make_id(), name))
        return index


def _object_text(text: str | None) -> str | None:
    """The JSON of an object, also out of a string that holds it, as some models write it."""
    if text is None or text.startswith("{"):
        return text
    inner = json.loads(text) if text.startswith('"') else None
    if not isinstance(inner, str) or not inner.startswith("{"):
        return None
    scanner = JsonScanner()
    is_whole = scanner.scan(inner) == len(inner) and scanner.done
    return inner if is_whole and not re.search("[\ud800-\udfff]", inner) else None
