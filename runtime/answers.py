"""What a request's owner gets: text as it grows, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .core import FinishReason
from .detokenizer import Detokenizer, StopStrings, Vocabulary
from .errors import RequestError
from .request import Request, Usage


class Output(NamedTuple):
    """What is new since the last one. `stop_reason`: the stop string or stop token id that was met."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None  # of the last output only
    stop_reason: str | int | None = None
    error: RequestError | None = None
    usage: Usage = Usage(0, 0, 0)


Sink = Callable[[Output], None]  # called on the engine's thread: must not block


class Answer:
    """From the tokens of one request to its outputs, and where it ends."""

    def __init__(self, request: Request, sink: Sink, vocabulary: Vocabulary, eos_token_ids: frozenset[int]) -> None:
        self.request = request
        self.sink = sink
        self._eos_token_ids = frozenset() if request.params.ignore_eos else eos_token_ids
        self._detokenizer = Detokenizer(vocabulary)
        self._stops = StopStrings(request.params.stop)
        self._num_out = request.num_prompt  # tokens that outputs have told of

    def push(self) -> Output | None:
        """Takes the request's last token; None while there is no new text."""
        token_id, params = self.request.token_ids[-1], self.request.params
        if token_id in params.stop_token_ids:
            return self.end("stop", token_id)
        if token_id in self._eos_token_ids:
            return self.end("stop")
        text, stop = self._stops.push(self._detokenizer.push(token_id))
        if stop is not None:
            return self._output(text, "stop", stop)
        if len(self.request.token_ids) >= self.request.max_len:
            return self.end("length", text=text)
        return self._output(text) if text else None

    def end(
        self,
        reason: FinishReason,
        stop_reason: int | None = None,
        *,
        text: str = "",
        error: RequestError | None = None,
    ) -> Output:
        """With the text that was held back; a stop string in its last characters still ends it."""
        tail, stop = self._stops.push(self._detokenizer.flush())
        if stop is not None and error is None:
            return self._output(text + tail, "stop", stop)
        return self._output(text + tail + self._stops.flush(), reason, stop_reason, error)

    def _output(
        self,
        text: str,
        finish_reason: FinishReason | None = None,
        stop_reason: str | int | None = None,
        error: RequestError | None = None,
    ) -> Output:
        token_ids = tuple(self.request.token_ids[self._num_out :])
        self._num_out += len(token_ids)
        return Output(text, token_ids, finish_reason, stop_reason, error, self.request.usage)
