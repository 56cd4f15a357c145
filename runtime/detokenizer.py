"""Text of one request, token by token: never half a character, never part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

UNKNOWN = "\ufffd"  # what bytes that are no character (yet) decode to
MAX_UNKNOWN = 3  # at the end of a text: the bytes of a character of four, without its last
WINDOW = 32  # tokens decoded together at most
# Special tokens around calls of tools and around thoughts: whoever reads the text has to see them.
MARKS = frozenset(
    [
        *("<think>", "</think>", "[THINK]", "[/THINK]", "<|channel|>", "<|message|>"),
        *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    ]
)
CONTEXT = 12  # of which stay: more than the bytes of MAX_UNKNOWN unfinished characters


class Vocabulary:
    """A tokenizer's way from tokens to text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.bytes = _byte_tokens(tokenizer)
        special = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.marks = {i: text for i, text in special.items() if text in MARKS}
        self.special_ids = frozenset(special.keys() - self.marks.keys())

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text


def _byte_tokens(tokenizer: Tokenizer) -> dict[int, int]:
    """The tokens that are one byte each, of tokenizers that write a character without token as its bytes."""
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    known = {token_id: byte for byte, token_id in enumerate(ids) if token_id is not None}
    return known if len(known) == 256 else {}


class Detokenizer:
    """Pieces whose concatenation is the text of all tokens decoded at once (of a byte-level tokenizer, exactly).

    Special tokens have no text, but MARKS have theirs.

    It decodes a window of the last tokens, of whose text the first `_num_done` characters are out.
    A character may need several tokens: what ends in UNKNOWN waits, but no longer than one character can. Tokens of one
    byte are decoded apart: the tokenizer makes a whole run of them UNKNOWN as long as one character is unfinished.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._token_ids: list[int] = []
        self._text = ""
        self._num_done = 0
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        if token_id in self._vocabulary.special_ids:
            return ""
        mark = self._vocabulary.marks.get(token_id)
        if mark is not None:
            return self._cut() + mark
        self._token_ids.append(token_id)
        self._text = self._vocabulary.decode(self._token_ids)
        byte = self._vocabulary.bytes.get(token_id)
        piece = self._push_text() if byte is None else self._push_byte(byte)
        if len(self._token_ids) > WINDOW:
            self._shorten(len(self._text) - self._num_done)
        return piece

    def _push_text(self) -> str:
        unknown = len(self._text) - len(self._text.rstrip(UNKNOWN))
        held = 0 if self._vocabulary.bytes else min(MAX_UNKNOWN, unknown)
        start, self._num_done = self._num_done, max(self._num_done, len(self._text) - held)
        return self._bytes.decode(b"", final=True) + self._text[start : self._num_done]

    def _push_byte(self, byte: int) -> str:
        self._num_done = len(self._text)
        return self._bytes.decode(bytes([byte]))

    def flush(self) -> str:
        """What waited for bytes that never came."""
        start, self._num_done = self._num_done, len(self._text)
        return self._bytes.decode(b"", final=True) + self._text[start:]

    def _cut(self) -> str:
        """What waited; bytes to come do not continue it."""
        text = self.flush()
        if text:
            self._token_ids, self._text, self._num_done = [], "", 0
        return text

    def _shorten(self, num_held: int) -> None:
        del self._token_ids[:-CONTEXT]
        self._text = self._vocabulary.decode(self._token_ids)
        self._num_done = max(0, len(self._text) - num_held)


class Found(NamedTuple):
    """Text that may go out, and the stop string that ends it."""

    text: str
    stop: str | None


class StopStrings:
    """Holds back what may be the beginning of a stop string; cuts the text before the first that is whole.

    `included`: it is cut behind it.
    """

    def __init__(self, stops: Sequence[str], *, included: bool = False) -> None:
        self._stops = stops
        self._included = included
        self._beginnings = frozenset(stop[:i] for stop in stops for i in range(1, len(stop)))
        self._longest = max(map(len, stops), default=1)
        self._held = ""

    def push(self, piece: str, *, armed: bool = True) -> Found:
        """Not `armed`: stop strings that this piece completes mean nothing, now or later."""
        if not self._stops or not piece:
            return Found(piece, None)
        text = self._held + piece
        if armed and (found := self._earliest(text)) is not None:
            self._held = ""
            place, stop = found
            return Found(text[: place + len(stop) * self._included], stop)
        end = self._num_safe(text)
        self._held = text[end:]
        return Found(text[:end], None)

    def _earliest(self, text: str) -> tuple[int, str] | None:
        """Of those that end behind what is held, which was looked at before."""
        first = len(self._held) + 1
        places = [(text.find(stop, max(0, first - len(stop))), stop) for stop in self._stops]
        return min((found for found in places if found[0] >= 0), key=lambda found: found[0], default=None)

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    def _num_safe(self, text: str) -> int:
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start:] in self._beginnings:
                return start
        return len(text)
