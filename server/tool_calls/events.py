"""What a parser finds in a model's text, in the order of the text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Text for whoever reads the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of the function `name`; `index` counts the calls of one answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A piece of the arguments of call `index`, as the model wrote them."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """Call `index` gets no more arguments; they are a whole JSON object unless the model broke off or erred."""

    index: int


Event = Content | CallStart | Arguments | CallEnd
