"""What one rendering of a template may cost: steps, seconds, and characters that it makes."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, ValuesView
from contextvars import ContextVar
from time import monotonic

from jinja2 import TemplateError

MAX_STEPS = 400_000  # loop rounds, calls, filters and operators
MAX_SECONDS = 2.0
FREE_SIZE = 1 << 24  # what any rendering may make
SIZE_PER_INPUT = 64  # and on top of it, for each unit that it was given
OBJECT_SIZE = 32  # what a value counts beside its characters


class LimitError(TemplateError):
    """A template that would run or grow without end."""


class Meter:
    """Counts down for one rendering; raises LimitError before the limit is passed, not after."""

    def __init__(self, given: object) -> None:
        self._steps = MAX_STEPS
        self._deadline = monotonic() + MAX_SECONDS
        self._left = FREE_SIZE
        self._left += SIZE_PER_INPUT * weigh(given, limit=1 << 40)

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0 or monotonic() > self._deadline:
            raise LimitError(f"it takes more than {MAX_STEPS} steps or {MAX_SECONDS} seconds")

    def grow(self, size: int) -> None:
        """Pays for something about to be made."""
        if size > self._left:
            raise LimitError("it makes too much text")
        self._left -= size

    def weigh(self, value: object) -> int:
        """Size of a value written out. What is written out twice counts twice, so that sharing hides nothing."""
        return weigh(value, self._left)

    def pay(self, value: object) -> None:
        self.grow(self.weigh(value))


METER: ContextVar[Meter] = ContextVar("METER")


def weigh(value: object, limit: int) -> int:
    if isinstance(value, str):
        return len(value)
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        total += OBJECT_SIZE
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list | tuple | set | KeysView | ValuesView | ItemsView):
            waiting += item
        if total + OBJECT_SIZE * len(waiting) > limit:
            raise LimitError("it makes too much text")
    return total
