"""gpt-oss's channels: analysis told apart from what is for the reader, and calls left for their parser."""

from __future__ import annotations

import re

from .reasoning import Parts, overlap

CHANNEL, MESSAGE, ROLE = "<|channel|>", "<|message|>", "assistant"
# What stands before a channel and belongs to its header, at the end of a text; also as far as it is there yet.
ROLE_END = re.compile(r"assistant(?: (?:t(?:o(?:=[^\s<]*)?)?)?)?\Z")
FUNCTION = re.compile(r"to=functions\.([A-Za-z0-9_.:/-]+)")
CALL = "<|channel|>commentary to=functions.{}<|message|>"


class Harmony:
    """Splits one answer, as Reasoning does, in OpenAI's harmony format without its `<|start|>` and `<|end|>`.

    Messages of the channel `final`, and of `commentary` to nobody, are content, and so are calls of functions, each
    behind CALL whatever its header looked like; all else are thoughts. A header that breaks off is nothing.
    """

    def __init__(self) -> None:
        self._held = ""
        self._header: str | None = None  # of a message that has not begun; None inside a message
        self._is_thought = False
        self._said = {False: False, True: False}  # whether there was text of each kind
        self._parts: dict[bool, list[str]] = {False: [], True: []}

    def feed(self, piece: str) -> Parts:
        self._held += piece
        while self._step():
            pass
        return self._taken()

    def finish(self) -> Parts:
        """What was held back, at the end of the text."""
        if self._header is None:
            self._say(self._held)
        self._held = ""
        return self._taken()

    def _taken(self) -> Parts:
        parts = Parts("".join(self._parts[True]), "".join(self._parts[False]))
        self._parts = {False: [], True: []}
        return parts

    def _step(self) -> bool:
        """Whether a header or a message came to its end."""
        if self._header is not None:
            return self._read_header(self._header)
        before, channel, after = self._held.partition(CHANNEL)
        role = ROLE_END.search(before)
        if channel:
            self._say(before[: role.start()] if role else before)
            self._header, self._held = role.group() if role else "", after
            return True
        end = len(before) - overlap(before, CHANNEL)
        role = ROLE_END.search(before, 0, end)
        end = role.start() if role else end - overlap(before[:end], ROLE)
        self._say(before[:end])
        self._held = before[end:]
        return False

    def _read_header(self, role: str) -> bool:
        header, message, after = self._held.partition(MESSAGE)
        if not message:
            return False
        self._header, self._held = None, after
        function = FUNCTION.search(f"{role} {header}")
        is_to_nobody = "to=" not in role + header and header.lstrip().startswith(("final", "commentary"))
        self._is_thought = not function and not is_to_nobody
        if function:
            self._say(CALL.format(function.group(1)))
        elif self._said[self._is_thought]:
            self._say("\n")
        return True

    def _say(self, text: str) -> None:
        if text:
            self._parts[self._is_thought].append(text)
            self._said[self._is_thought] = True
