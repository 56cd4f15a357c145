"""From answers of the engine to responses, whole or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from mistralrs_onnx.runtime.answers import Output
from mistralrs_onnx.runtime.logprobs import LEAST, TokenLogprobs
from mistralrs_onnx.runtime.token_bytes import TokenBytes, spelled

from .drawing import Answer, Drawing
from .model import Model
from .requests import ChatCompletionRequest, CompletionRequest, as_value_errors
from .responses import (
    ChatCompletionChunkResponse,
    ChatCompletionResponse,
    Choice,
    ChunkChoice,
    CompletionChoice,
    CompletionResponse,
    Delta,
    FinishReason,
    Logprobs,
    ResponseLogprob,
    ResponseMessage,
    TopLogprob,
)


class Head(NamedTuple):
    """What responses begin with."""

    id: str
    created: int
    model: str


def head(kind: str, model: Model) -> Head:
    return Head(f"{kind}-{secrets.token_hex(12)}", int(time.time()), model.name)


def chat_response(request: ChatCompletionRequest, drawing: Drawing, model: Model) -> ChatCompletionResponse:
    """Waits for the answers. Raises RequestError."""
    id_, created, name = head("chatcmpl", model)
    choices = tuple(
        Choice(_reason(answer), index, ResponseMessage(answer.text), _logprobs(request, answer.scores, model))
        for index, answer in enumerate(drawing.finish())
    )
    return ChatCompletionResponse(id_, choices, created, name, drawing.usage())


def completion_response(request: CompletionRequest, drawing: Drawing, model: Model) -> CompletionResponse:
    """Waits for the answers. Raises RequestError."""
    id_, created, name = head("cmpl", model)
    before, after = request.prompt if request.echo_prompt else "", request.suffix or ""
    choices = tuple(
        CompletionChoice(_reason(answer), index, before + answer.text + after)
        for index, answer in enumerate(drawing.finish())
    )
    return CompletionResponse(id_, choices, created, name, drawing.usage())


class ChatCompletionStream(Iterator[ChatCompletionChunkResponse]):
    """Chunks as they come. `close`, the end of a `with` and being forgotten cancel what still runs."""

    def __init__(self, request: ChatCompletionRequest, drawing: Drawing, model: Model) -> None:
        self._drawing = drawing
        self._request = request
        self._model = model
        self._head = head("chatcmpl", model)
        self._is_over = False

    def __next__(self) -> ChatCompletionChunkResponse:
        """Raises ValueError when an answer fails."""
        if self._is_over:
            raise StopIteration
        try:
            with as_value_errors():
                index, output = self._drawing.next()
        except BaseException:
            self.close()
            raise
        self._is_over = self._drawing.is_finished
        return self._chunk(index, output)

    def _chunk(self, index: int, output: Output) -> ChatCompletionChunkResponse:
        id_, created, name = self._head
        reason = self._drawing.answers[index].finish_reason
        told = _logprobs(self._request, output.logprobs, self._model)
        choice = ChunkChoice(reason, index, Delta(output.text), told)
        usage = self._drawing.usage() if self._is_over else None
        return ChatCompletionChunkResponse(id_, (choice,), created, name, usage)

    def close(self) -> None:
        self._is_over = True
        self._drawing.close()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reason(answer: Answer) -> FinishReason:
    assert answer.finish_reason is not None
    return answer.finish_reason


def _logprobs(request: ChatCompletionRequest, scores: Sequence[TokenLogprobs], model: Model) -> Logprobs | None:
    if not request.logprobs:
        return None
    return Logprobs(tuple(_told(score, model.token_bytes) for score in scores))


def _told(score: TokenLogprobs, read: TokenBytes) -> ResponseLogprob:
    top = tuple(_entry(each.token_id, each.logprob, read) for each in score.top)
    token, logprob, data = _spelled(score.token_id, score.logprob, read)
    return ResponseLogprob(token, logprob, data, top)


def _entry(token_id: int, logprob: float, read: TokenBytes) -> TopLogprob:
    return TopLogprob(*_spelled(token_id, logprob, read))


def _spelled(token_id: int, logprob: float, read: TokenBytes) -> tuple[str, float, tuple[int, ...]]:
    data = read(token_id)
    return spelled(data), max(logprob, LEAST), tuple(data)
