"""What a Runner answers: frozen data under the names that OpenAI and mistral.rs gave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, seconds and tokens per second. A prompt with several answers is read, and counted, once.

    The time of a prompt ends with the first token of the answer and begins when it was sent: waiting counts.
    """

    completion_tokens: int
    prompt_tokens: int
    total_tokens: int
    avg_tok_per_sec: float
    avg_prompt_tok_per_sec: float
    avg_compl_tok_per_sec: float
    total_time_sec: float
    total_prompt_time_sec: float
    total_completion_time_sec: float


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """A token, the natural logarithm of its probability, and its bytes, which may be part of a character."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ResponseLogprob:
    """A token of the answer, and those that were likeliest in its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[TopLogprob, ...]


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of each token of an answer, or of a part of one."""

    content: tuple[ResponseLogprob, ...]


@dataclass(frozen=True, slots=True)
class ResponseMessage:
    """What the assistant says."""

    content: str
    role: Literal["assistant"] = "assistant"


@dataclass(frozen=True, slots=True)
class Choice:
    """An answer to a chat."""

    finish_reason: FinishReason
    index: int
    message: ResponseMessage
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class ChatCompletionResponse:
    """A chat's answers. `created`: seconds since 1970."""

    id: str
    choices: tuple[Choice, ...]
    created: int
    model: str
    usage: Usage
    system_fingerprint: str = "local"
    object: str = "chat.completion"


@dataclass(frozen=True, slots=True)
class CompletionChoice:
    """A continuation of a text."""

    finish_reason: FinishReason
    index: int
    text: str
    logprobs: None = None


@dataclass(frozen=True, slots=True)
class CompletionResponse:
    """A text's continuations. `created`: seconds since 1970."""

    id: str
    choices: tuple[CompletionChoice, ...]
    created: int
    model: str
    usage: Usage
    system_fingerprint: str = "local"
    object: str = "text_completion"


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of an answer."""

    content: str
    role: Literal["assistant"] = "assistant"


@dataclass(frozen=True, slots=True)
class ChunkChoice:
    """A part of an answer; the last has a finish reason."""

    finish_reason: FinishReason | None
    index: int
    delta: Delta
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class ChatCompletionChunkResponse:
    """What is new of a chat's answers. `usage`: with the last chunk."""

    id: str
    choices: tuple[ChunkChoice, ...]
    created: int
    model: str
    usage: Usage | None = None
    system_fingerprint: str = "local"
    object: str = "chat.completion.chunk"
