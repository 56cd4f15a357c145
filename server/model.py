"""What the server needs of a loaded model, so that tests can stand in for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mistralrs_onnx.runtime.engine import Sink
from mistralrs_onnx.runtime.sampling import SamplingParams


class Engine(Protocol):
    """Generates tokens on its own thread; no call here waits for it."""

    def submit(
        self, prompt_ids: Sequence[int], params: SamplingParams, sink: Sink, cache_scope: tuple[str, ...] = ()
    ) -> Any:
        """A handle for `cancel`; raises RequestError 400, 429 or 503."""

    def cancel(self, request: Any) -> None:
        """Frees what the request holds; one that has finished is left alone."""


class Decoder(Protocol):
    """Token ids back to text."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


class Model(Protocol):
    """A model that is loaded and runs."""

    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def tokenizer(self) -> Decoder: ...
    @property
    def chat_template(self) -> object | None: ...  # None: the model only continues text
    @property
    def context_length(self) -> int: ...
    @property
    def defaults(self) -> Mapping[str, Any]: ...  # fields of SamplingParams that a request may leave unsaid

    def encode_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]: ...
    def encode(self, text: str) -> list[int]: ...
    def close(self, drain: float = 0.0) -> None: ...
