"""What one HTTP request asks the engine for, and the shape of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import SamplingParams

from .logprobs import LogprobsWriter, PromptWriter
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
    choice: Callable[[int, str, str], JSON]  # `logprobs` in it, in a delta and in a chunk is to be filled in
    delta: Callable[[int, str], JSON]
    chunk: Callable[[int, JSON], JSON] | None  # around a delta of any kind; None: there is only text
    opening: Callable[[int], JSON] | None  # what a choice's stream begins with
    ending: Callable[[int, str], JSON]

    @property
    def is_chat(self) -> bool:
        return self.chunk is not None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens to continue, and text that the answer repeats before it."""

    token_ids: list[int]
    echo: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """`n` answers to each prompt, the likeliest of `best_of` that are drawn. Answer i is one to prompt i // best_of."""

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
    best_of: int = 0  # 0: n
    writer: Callable[[], LogprobsWriter] | None = None  # of a choice's log probabilities; None: they are not told
    scores_prompt: bool = False  # with log probabilities of the prompt, which is repeated
    is_silent: bool = False  # no answer is wanted, only the prompt
    prompt_writer: PromptWriter | None = None  # of the prompt's log probabilities beside the answer

    def __post_init__(self) -> None:
        if self.best_of and self.best_of < self.n:
            message = f"best_of must be at least n, which is {self.n}, got {self.best_of}"
            raise RequestError(message, param="best_of")
        if self.stream and self.num_drawn > self.n:
            message = "which answers are the best is known at the end: with stream, best_of cannot be more than n"
            raise RequestError(message, param="best_of")
        if self.stream and self.prompt_writer is not None:
            message = "a stream does not tell of the prompt: leave prompt_logprobs or stream out"
            raise RequestError(message, param="prompt_logprobs")
        if self.num_answers > MAX_CHOICES:
            message = (
                f"at most {MAX_CHOICES} choices in one request, got {len(self.prompts)} prompts with {self.num_drawn}"
            )
            raise RequestError(message, param="best_of" if self.num_drawn > self.n else "n")

    @property
    def num_drawn(self) -> int:
        return self.best_of or self.n

    @property
    def num_answers(self) -> int:
        return len(self.prompts) * self.num_drawn

    @property
    def num_prompt_logprobs(self) -> int | None:
        """Alternatives that the engine is to note with each token of the prompt, for either writer."""
        wanted = [] if self.prompt_writer is None else [self.prompt_writer.num_top]
        if self.scores_prompt:
            wanted.append(self.params.logprobs or 0)
        return max(wanted, default=None)

    def answers(self) -> Iterator[tuple[Prompt, SamplingParams]]:
        """With a seed, each of a prompt's answers gets its own, so that they differ and can be had again."""
        params = self.params
        if self.num_drawn > self.n and params.logprobs is None:
            params = replace(params, logprobs=0)
        for prompt in self.prompts:
            for i in range(self.num_drawn):
                yield prompt, params if params.seed is None else replace(params, seed=params.seed + i)
