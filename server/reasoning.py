"""What a model thinks before it answers, told apart from the answer while both are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Tags(NamedTuple):
    """Around a model's thoughts."""

    opening: str
    closing: str


THINK = Tags("<think>", "</think>")
BRACKETS = Tags("[THINK]", "[/THINK]")
CHANNELS = Tags("<|channel|>", "<|message|>")  # around the names of channels: see Harmony


@dataclass(frozen=True, slots=True)
class Parts:
    """New text of both kinds; the reasoning comes first."""

    reasoning: str = ""
    content: str = ""


class Reasoning:
    """Splits one answer: feed it pieces of text, then `finish`.

    Thoughts are what stands between the tags at the beginning of the answer; later tags are content. `is_open`: the
    prompt ended with the opening tag. White space around thoughts, and before the answer to them, is dropped.
    """

    def __init__(self, tags: Tags, *, is_open: bool = False) -> None:
        self._tags = tags
        self._held = ""
        self._state = self._thoughts if is_open else self._beginning
        self._is_first = True  # no thought was told of yet

    def feed(self, piece: str) -> Parts:
        self._held += piece
        return self._state()

    def finish(self) -> Parts:
        """What was held back, at the end of the text: thoughts that end without a tag are thoughts."""
        parts = self._state()
        held, self._held = self._held, ""
        if self._state == self._thoughts:
            return Parts(parts.reasoning + held.rstrip(), parts.content)
        return Parts(parts.reasoning, parts.content + (held if self._state == self._beginning else ""))

    def _beginning(self) -> Parts:
        text = self._held.lstrip()
        if text.startswith(self._tags.opening):
            self._held = text[len(self._tags.opening) :]
            self._state = self._thoughts
            return self._thoughts()
        if self._tags.opening.startswith(text):
            return Parts()
        self._state = self._answer
        return self._answer()

    def _thoughts(self) -> Parts:
        before, closing, after = self._held.partition(self._tags.closing)
        if closing:
            self._held, self._state = after, self._gap
            return Parts(self._thought(before.rstrip()), self._gap().content)
        end = len(self._held) - overlap(self._held, self._tags.closing)
        end = len(self._held[:end].rstrip())
        thought, self._held = self._held[:end], self._held[end:]
        return Parts(self._thought(thought))

    def _thought(self, text: str) -> str:
        text = text.lstrip() if self._is_first else text
        self._is_first = self._is_first and not text
        return text

    def _gap(self) -> Parts:
        self._held = self._held.lstrip()
        if not self._held:
            return Parts()
        self._state = self._answer
        return self._answer()

    def _answer(self) -> Parts:
        text, self._held = self._held, ""
        return Parts(content=text)


def overlap(text: str, tag: str) -> int:
    """How many characters at the end of the text may be the beginning of the tag."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)


def detect(template: str | None) -> Tags | None:
    """The tags that a chat template shows to its model, if any."""
    return next(
        (tags for tags in (THINK, BRACKETS, CHANNELS) if template is not None and tags.opening in template), None
    )


def is_open(prompt: str, tags: Tags) -> bool:
    """Whether what follows the prompt are thoughts, because its template has begun them."""
    return prompt.rstrip().endswith(tags.opening)
