"""What a request's owner gets: text as it grows, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .core import FinishReason
from .detokenizer import Detokenizer, StopStrings, Vocabulary
from .errors import RequestError
from .logprobs import TokenLogprobs
from .request import Request, Usage


class Output(NamedTuple):
    """What is new since the last one. `stop_reason`: the stop string or stop token id that was met.

    `logprobs`: one for each of `token_ids` if they were asked for, whose text may be part of a later output.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None  # of the last output only
    stop_reason: str | int | None = None
    error: RequestError | None = None
    usage: Usage = Usage(0, 0, 0)
    logprobs: tuple[TokenLogprobs, ...] = ()


Sink = Callable[[Output], None]  # called on the engine's thread: must not block


class Answer:
    """From the tokens of one request to its outputs, and where it ends."""

    def __init__(self, request: Request, sink: Sink, vocabulary: Vocabulary, eos_token_ids: frozenset[int]) -> None:
        self.request = request
        self.sink = sink
        params = request.params
        self._end_ids = params.stop_token_ids if params.ignore_eos else params.stop_token_ids | eos_token_ids
        self._detokenizer = Detokenizer(vocabulary)
        self._stops = StopStrings(params.stop, included=params.include_stop_str_in_output)
        self._logprobs: list[TokenLogprobs] = []  # of tokens that no output has told of
        self._num_out = request.num_prompt  # tokens that outputs have told of

    def push(self, logprobs: TokenLogprobs | None = None) -> Output | None:
        """Takes the request's last token; None while there is no new text."""
        if logprobs is not None:
            self._logprobs.append(logprobs)
        token_id, params = self.request.token_ids[-1], self.request.params
        if token_id in self._end_ids and self._may_stop:
            text = self._detokenizer.push(token_id) if params.include_stop_str_in_output else ""
            return self.end("stop", token_id if token_id in params.stop_token_ids else None, text=text)
        text = self._detokenizer.push(token_id)
        if len(self.request.token_ids) >= self.request.max_len:
            return self.end("length", text=text)
        text, stop = self._stops.push(text, armed=self._may_stop)
        if stop is not None:
            return self._output(text, "stop", stop)
        return self._output(text) if text else None

    @property
    def _may_stop(self) -> bool:
        return self.request.num_output > self.request.params.min_tokens

    def end(
        self,
        reason: FinishReason,
        stop_reason: int | None = None,
        *,
        text: str = "",
        error: RequestError | None = None,
    ) -> Output:
        """With the `text` of the last token and what was held back; a stop string in it still ends it."""
        text, stop = self._stops.push(text + self._detokenizer.flush(), armed=self._may_stop)
        if stop is not None and error is None:
            return self._output(text, "stop", stop)
        return self._output(text + self._stops.flush(), reason, stop_reason, error)

    def _output(
        self,
        text: str,
        finish_reason: FinishReason | None = None,
        stop_reason: str | int | None = None,
        error: RequestError | None = None,
    ) -> Output:
        token_ids = tuple(self.request.token_ids[self._num_out :])
        self._num_out += len(token_ids)
        logprobs, self._logprobs = tuple(self._logprobs), []
        return Output(text, token_ids, finish_reason, stop_reason, error, self.request.usage, logprobs)
