"""What the server needs of a loaded model, so that tests can stand in for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mistralrs_onnx.runtime.adapter_registry import Part
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.engine import Sink
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.stats import EngineStats

if TYPE_CHECKING:
    from mistralrs_onnx.runtime.grammar.compiler import Grammar


class Engine(Protocol):
    """Generates tokens on its own thread; no call here waits for it."""

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        sink: Sink,
        cache_scope: tuple[str, ...] = (),
        adapter: Adapter | None = None,
        *,
        parent: Any = None,
        grammar: Grammar | None = None,
        prompt_logprobs: int | None = None,
        truncate: bool | None = None,
    ) -> Any:
        """A handle for `cancel`, and `Timed`; its `prompt_logprobs`, if asked for, are there before the first output.

        `parent`: the handle of a request of the same prompt. `truncate`: whether a prompt that is too long is cut; None
        as the engine was told. Raises RequestError 400, 429 or 503.
        """

    def cancel(self, request: Any) -> None:
        """Frees what the request holds; one that has finished is left alone."""

    def stats(self) -> EngineStats:
        """What it does and did, as of now."""


class TokenTexts(Protocol):
    """What single tokens write, which may be part of a character only."""

    @property
    def special_ids(self) -> frozenset[int]: ...  # no part of an output's text
    @property
    def strips_space(self) -> bool: ...  # text does not begin with the space of its first token
    def __call__(self, token_id: int) -> bytes: ...


class Decoder(Protocol):
    """Token ids back to text."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


class Adapters(Protocol):
    """What is loaded beside the model; any thread may call."""

    @property
    def active(self) -> tuple[str, ...]: ...  # what requests get that do not say
    def loaded(self) -> list[Adapter]: ...
    def __contains__(self, name: str) -> bool: ...
    def select(self, parts: Sequence[Part] | None) -> Adapter | None:
        """What a request runs with, None being the base; takes its time. Raises RequestError."""

    def activate(self, names: Sequence[str]) -> None:
        """Raises RequestError, and then nothing has changed."""

    def load(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        """Takes its time. Raises RequestError, and then nothing has changed."""

    def unload(self, name: str) -> Adapter:
        """Raises RequestError."""


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
    def truncate_sequence(self) -> bool: ...  # whether prompts that are too long are cut, where a request does not say
    @property
    def adapters(self) -> Adapters | None: ...  # None: it takes none
    @property
    def mixed_adapters(self) -> Sequence[str]: ...  # that an X-LoRA mixes by itself; then it takes none
    @property
    def defaults(self) -> Mapping[str, Any]: ...  # fields of SamplingParams that a request may leave unsaid

    @property
    def template_source(self) -> str | None: ...

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> list[int]: ...
    def encode(self, text: str, *, special: bool = True) -> list[int]: ...
    @property
    def token_bytes(self) -> TokenTexts: ...
    def grammar(self, spec: GrammarSpec) -> Grammar:
        """What an output is to keep to; takes its time. Raises RequestError for what cannot be compiled."""

    def close(self, drain: float = 0.0) -> None: ...
