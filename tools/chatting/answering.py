"""One answer of a model while it comes: what was said, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from mistralrs_onnx.runtime.adapter_registry import Part
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.answers import Output
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.outputs import Engine

if TYPE_CHECKING:
    pass

DEFAULTS = {"temperature": 0.3, "top_p": 0.95}  # where the model recommends nothing
CHOOSING = ("temperature", "top_k", "top_p", "min_p")

Write = Callable[[str], None]


class Adapters(Protocol):
    """What is loaded beside the model."""

    def select(self, parts: Sequence[Part] | None) -> Adapter | None: ...
    def loaded(self) -> Sequence[Adapter]: ...


class Model(Protocol):
    """A model that can hold a conversation."""

    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> Engine[Any]: ...
    @property
    def context_length(self) -> int: ...
    @property
    def adapters(self) -> Adapters | None: ...
    @property
    def mixed_adapters(self) -> Sequence[str]: ...
    @property
    def defaults(self) -> Mapping[str, Any]: ...
    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]: ...


def recommended(model: Model) -> dict[str, Any]:
    """Fields of SamplingParams where nobody says otherwise."""
    is_silent = not any(name in model.defaults for name in CHOOSING)
    return {**(DEFAULTS if is_silent else {}), **model.defaults}


class Answer:
    """What came so far; `last` is the last output."""

    def __init__(self) -> None:
        self.last = Output("", ())
        self._pieces: list[str] = []
        self._begun = self._first = self._ended = perf_counter()

    def take(self, source: Generator[Output, None, None], write: Write) -> None:
        """Writes each piece as it comes. Whatever interrupts that leaves what came."""
        self._begun = self._first = self._ended = perf_counter()
        with closing(source):
            self._take(source, write)

    def _take(self, source: Iterable[Output], write: Write) -> None:
        for output in source:
            self._ended = perf_counter()
            if not self.num_tokens:
                self._first = self._ended
            self.last = output
            self._pieces.append(output.text)
            write(output.text)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def num_tokens(self) -> int:
        return self.last.usage.output_tokens

    @property
    def wait(self) -> float:
        """Seconds until the first text."""
        return self._first - self._begun

    @property
    def seconds(self) -> float:
        """After the first text."""
        return self._ended - self._first

    @property
    def speed(self) -> str:
        return speed(self.num_tokens, self.wait, self.seconds)


def rate(num_tokens: int, seconds: float) -> float | None:
    """Tokens per second, not counting the first, which waits for the prompt to be read."""
    return (num_tokens - 1) / seconds if num_tokens > 1 and seconds > 0 else None


def speed(num_tokens: int, wait: float, seconds: float) -> str:
    """For people."""
    per_second = rate(num_tokens, seconds)
    shown = "" if per_second is None else f"{per_second:.1f} tokens/s, "
    return f"{num_tokens} token{'s' * (num_tokens != 1)}, {shown}first after {wait:.2f} s"


def select_adapter(model: Model, words: Sequence[str]) -> Adapter | None:
    """Of NAME and NAME:WEIGHT; of no words, what is active. Raises RequestError."""
    if not words:
        return None if model.adapters is None else model.adapters.select(None)
    if model.mixed_adapters:
        mixed = ", ".join(model.mixed_adapters)
        raise RequestError(f"this model mixes its own adapters ({mixed}) by X-LoRA: there is nothing to choose")
    if model.adapters is None:
        raise RequestError("no adapters are loaded: start with --lora-modules NAME=PATH")
    return model.adapters.select([_part(word) for word in words])


def _part(word: str) -> Part:
    """Raises RequestError."""
    name, _, weight = word.partition(":")
    try:
        return Part(name, float(weight or 1))
    except ValueError:
        raise RequestError(f"the weight of adapter {name} must be a number, got {weight!r}") from None
