"""What a program asks of a Runner, in the words of mistral.rs: a chat, or text to be continued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.runtime.errors import PackageError, RequestError
from mistralrs_onnx.runtime.grammar.spec import KINDS, GrammarSpec, make_spec

MESSAGES = "Expected a string or list of dicts."
NO_TEXT = "Grammar type is specified but not grammar text"
NO_TYPE = f"Grammar text is specified but not grammar type: give one of {', '.join(KINDS)}"


@contextmanager
def as_value_errors() -> Iterator[None]:
    """Programs that were written for mistral.rs expect these."""
    try:
        yield
    except (CompileError, PackageError, RequestError) as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True)
class ChatCompletionRequest:
    """Messages, or one text for a message of the user. What is None is as the model recommends.

    `model` is for the reader: a Runner has one. `top_logprobs`: alternatives that are told with each token, if
    `logprobs` are asked for. `max_tokens`: None for all that the context holds. `grammar`: what the answer keeps to, in
    the language that `grammar_type` names: regex, yacc, json_schema, lark, gbnf, ... `adapters`: names; None for those
    that are active. `chat_template_kwargs`: further variables of the chat template. Raises TypeError and ValueError.
    """

    messages: Sequence[Mapping[str, Any]] | str
    model: str
    logprobs: bool = False
    n_choices: int = 1
    logit_bias: Mapping[int, float] | None = None
    top_logprobs: int | None = None
    max_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop_seqs: Sequence[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool = False
    grammar: str | Mapping[str, Any] | None = None
    grammar_type: str | None = None
    adapters: Sequence[str] | None = None
    _: KW_ONLY
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.messages, str) and not _are_dicts(self.messages):
            raise TypeError(MESSAGES)
        _check_count("n_choices", self.n_choices)
        with as_value_errors():
            self.spec()
            if self.top_logprobs and not self.logprobs:
                raise RequestError("top_logprobs needs logprobs: set that to True", param="top_logprobs")

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def num_drawn(self) -> int:
        return self.n_choices

    def spec(self) -> GrammarSpec | None:
        """Raises RequestError."""
        return _spec(self.grammar, self.grammar_type)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A text to continue. What it has in common with ChatCompletionRequest is the same there.

    `best_of`: so many answers are drawn, and the likeliest `n_choices` of them told; fewer than these count as so many.
    `echo_prompt`: the answer begins with the prompt. `suffix`: it ends with this text.
    """

    prompt: str
    model: str
    best_of: int = 1
    echo_prompt: bool = False
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    max_tokens: int | None = None
    n_choices: int = 1
    stop_seqs: Sequence[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    suffix: str | None = None
    top_k: int | None = None
    grammar: str | Mapping[str, Any] | None = None
    grammar_type: str | None = None
    adapters: Sequence[str] | None = None
    _: KW_ONLY
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"prompt must be a string, got {type(self.prompt).__name__}")
        _check_count("n_choices", self.n_choices)
        _check_count("best_of", self.best_of)
        with as_value_errors():
            self.spec()

    @property
    def num_logprobs(self) -> int | None:
        """They tell which answers are the best."""
        return 0 if self.num_drawn > self.n_choices else None

    @property
    def num_drawn(self) -> int:
        return max(self.best_of, self.n_choices)

    def spec(self) -> GrammarSpec | None:
        """Raises RequestError."""
        return _spec(self.grammar, self.grammar_type)


AnyRequest = ChatCompletionRequest | CompletionRequest


def _are_dicts(messages: Any) -> bool:
    return isinstance(messages, Sequence) and all(isinstance(each, Mapping) for each in messages)


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r:.64}")


def _spec(grammar: str | Mapping[str, Any] | None, kind: str | None) -> GrammarSpec | None:
    if kind is None and grammar is None:
        return None
    if grammar is None:
        raise RequestError(NO_TEXT, param="grammar")
    if kind is None:
        raise RequestError(NO_TYPE, param="grammar_type")
    return make_spec(kind, grammar, "grammar" if kind in KINDS else "grammar_type")
