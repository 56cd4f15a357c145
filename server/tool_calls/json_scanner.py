"""Where a JSON value ends that comes in pieces; looks at each character once and keeps no text."""

from __future__ import annotations

import re
from collections.abc import Callable

SPACE = re.compile(r"[ \t\n\r]*")
PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
WORD = re.compile(r"[-+.0-9A-Za-z]*")
SCALAR = re.compile(r"true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
HEX = frozenset("0123456789abcdefABCDEF")
ESCAPED = frozenset('"\\/bfnrtu')


class JsonScanner:
    """Follows one value (RFC 8259) to its end: then `done`, or `broken` at the first character that cannot be in it.

    A number or a word ends only with what follows it.
    """

    def __init__(self) -> None:
        self.broken = False
        self._closers: list[str] = []
        self._word = ""
        self._num_hex = 0
        self._is_key = False
        self._state: Callable[[str, int], int] | None = self._value

    @property
    def done(self) -> bool:
        return self._state is None and not self.broken

    def scan(self, text: str, start: int = 0) -> int:
        """The position behind what belongs to the value, of the text that goes on at `start`."""
        at = start
        while self._state is not None and at < len(text):
            at = self._state(text, at)
        return at

    def _break(self, at: int) -> int:
        self.broken, self._state = True, None
        return at

    def _value(self, text: str, at: int) -> int:
        at = _behind(SPACE, text, at)
        if at == len(text):
            return at
        letter = text[at]
        if letter == "{":
            return self._open("}", self._first_key, at)
        if letter == "[":
            return self._open("]", self._first_item, at)
        if letter == '"':
            self._state, self._is_key = self._string, False
            return at + 1
        if _behind(WORD, letter, 0):
            self._state, self._word = self._scalar, ""
            return at
        return self._break(at)

    def _open(self, closer: str, state: Callable[[str, int], int], at: int) -> int:
        self._closers.append(closer)
        self._state = state
        return at + 1

    def _first_item(self, text: str, at: int) -> int:
        at = _behind(SPACE, text, at)
        if at < len(text) and text[at] == "]":
            return self._close(at)
        self._state = self._value if at < len(text) else self._first_item
        return at

    def _first_key(self, text: str, at: int) -> int:
        at = _behind(SPACE, text, at)
        if at < len(text) and text[at] == "}":
            return self._close(at)
        self._state = self._key if at < len(text) else self._first_key
        return at

    def _key(self, text: str, at: int) -> int:
        at = _behind(SPACE, text, at)
        if at == len(text):
            return at
        if text[at] != '"':
            return self._break(at)
        self._state, self._is_key = self._string, True
        return at + 1

    def _colon(self, text: str, at: int) -> int:
        at = _behind(SPACE, text, at)
        if at == len(text):
            return at
        if text[at] != ":":
            return self._break(at)
        self._state = self._value
        return at + 1

    def _after(self, text: str, at: int) -> int:
        at = _behind(SPACE, text, at)
        if at == len(text):
            return at
        closer = self._closers[-1]
        if text[at] == closer:
            return self._close(at)
        if text[at] != ",":
            return self._break(at)
        self._state = self._key if closer == "}" else self._value
        return at + 1

    def _close(self, at: int) -> int:
        self._closers.pop()
        self._end()
        return at + 1

    def _end(self) -> None:
        """A value ends."""
        self._state = self._after if self._closers else None

    def _string(self, text: str, at: int) -> int:
        at = _behind(PLAIN, text, at)
        if at == len(text):
            return at
        if text[at] == "\\":
            self._state = self._escape
        elif text[at] != '"':
            return self._break(at)
        elif self._is_key:
            self._state = self._colon
        else:
            self._end()
        return at + 1

    def _escape(self, text: str, at: int) -> int:
        if text[at] not in ESCAPED:
            return self._break(at)
        self._num_hex = 4
        self._state = self._hex if text[at] == "u" else self._string
        return at + 1

    def _hex(self, text: str, at: int) -> int:
        if text[at] not in HEX:
            return self._break(at)
        self._num_hex -= 1
        if self._num_hex == 0:
            self._state = self._string
        return at + 1

    def _scalar(self, text: str, at: int) -> int:
        end = _behind(WORD, text, at)
        self._word += text[at:end]
        if end < len(text):
            if not SCALAR.fullmatch(self._word):
                return self._break(end)
            self._end()
        return end


def _behind(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None  # all of them match nothing, too
    return match.end()
