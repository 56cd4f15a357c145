"""What one HTTP request asks the engine for, and the shape of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import SamplingParams

from .replies import Reading
from .selection import Served

if TYPE_CHECKING:
    from mistralrs_onnx.runtime.grammar.compiler import Grammar

MAX_CHOICES = 64  # of one request: prompts times n

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """How an endpoint spells answers: `choice(index, text, finish_reason)` whole, the others in a stream."""

    id_prefix: str
    object: str
    chunk_object: str
    choice: Callable[[int, str, str], JSON]
    delta: Callable[[int, str], JSON]
    chunk: Callable[[int, JSON], JSON] | None  # around a delta of any kind; None: there is only text
    opening: Callable[[int], JSON] | None  # what a choice's stream begins with
    ending: Callable[[int, str], JSON]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens to continue, and text that the answer repeats before it."""

    token_ids: list[int]
    echo: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """`n` answers to each prompt. Choice i answers prompt i // n."""

    shape: Shape
    prompts: tuple[Prompt, ...]
    params: SamplingParams
    n: int
    stream: bool
    include_usage: bool
    cache_scope: tuple[str, ...]
    served: Served
    grammar: Grammar | None = None  # what each answer keeps to
    reading: Reading | None = None  # how calls and thoughts are found in the answers; None: they are all content

    def __post_init__(self) -> None:
        if self.num_choices > MAX_CHOICES:
            message = f"at most {MAX_CHOICES} choices in one request, got {len(self.prompts)} prompts with n = {self.n}"
            raise RequestError(message, param="n")

    @property
    def num_choices(self) -> int:
        return len(self.prompts) * self.n

    def choices(self) -> Iterator[tuple[Prompt, SamplingParams]]:
        """With a seed, each of the n answers gets its own, so that they differ and can be had again."""
        for prompt in self.prompts:
            for i in range(self.n):
                seed = self.params.seed
                yield prompt, self.params if seed is None else replace(self.params, seed=seed + i)
