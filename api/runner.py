"""A model that is loaded and answers, as mistral.rs's Python API has it."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.isq_map import parse_type
from mistralrs_onnx.compiler.sources.token_source import parse_token_source
from mistralrs_onnx.compiler.templates.find import find_template
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sessions import usable_device

from .adapters import AdapterOptions
from .answers import ChatCompletionStream, chat_response, completion_response
from .caching.cache import cached
from .drawing import Drawing, asked, without_adapters
from .model import LoadOptions, Model, load
from .re_isq import re_isq
from .requests import AnyRequest, ChatCompletionRequest, CompletionRequest, as_value_errors
from .responses import ChatCompletionResponse, CompletionResponse
from .sources.adapter_source import LocatedAdapters
from .speculate import SpeculateOptions
from .which import AnyWhich, Defaults, Which, chosen, non_granular_index

MAX_WAITING = 1 << 16  # requests; each has a thread of its program


class Runner:
    """Loads a model, compiling it into the cache unless it is there. Any thread may send: what is sent at once runs at
    once. Use it as a context manager, or call `close`.

    `which`: the model. `max_seqs`: requests that run at once. `prefix_cache_n`: finished conversations whose keys and
    values are kept. `token_source`: of the hub: literal:VALUE, env:NAME, path:FILE, cache or none. `which_draft`: a
    smaller model of the same vocabulary, which guesses up to `speculative_gamma` tokens of a step. `chat_template`: a
    .jinja or .json file, or the name of a template. `num_device_layers`: there is one device, and None takes it.
    `in_situ_quant`: a type to quantize the weights to, like Q4K or 8. `max_model_len`: tokens of a request, None for
    the model's. `truncate_sequence`: of prompts that are too long the beginning is cut off. `num_threads`: None takes
    every processor. `offline`: ask no hub. `device`: cpu, cuda or cuda:1.

    Whatever is wrong is a ValueError, or a TypeError.
    """

    def __init__(
        self,
        which: AnyWhich,
        max_seqs: int = 16,
        no_kv_cache: bool = False,
        prefix_cache_n: int = 16,
        token_source: str = "cache",
        speculative_gamma: int = 32,
        which_draft: AnyWhich | None = None,
        chat_template: str | None = None,
        num_device_layers: int | None = None,
        in_situ_quant: str | None = None,
        *,
        max_model_len: int | None = None,
        truncate_sequence: bool = False,
        num_threads: int | None = None,
        offline: bool = False,
        device: str = "cpu",
    ) -> None:
        _check_which(which, "which")
        if which_draft is not None:
            _check_which(which_draft, "which_draft")
        engine = EngineOptions(
            max_seqs=max_seqs,
            max_model_len=max_model_len,
            max_queue=MAX_WAITING,
            kv_cache=not no_kv_cache,
            truncate_sequence=truncate_sequence,
            prefix_cache_n=None if no_kv_cache else prefix_cache_n,
        )
        with as_value_errors():
            _check_layers(num_device_layers)
            usable_device(device)
            defaults = Defaults(_options(chat_template, in_situ_quant), parse_token_source(token_source), offline)
            self._chosen = chosen(which, defaults)
            located = self._chosen.source.locate(self._chosen.options)
            self._loading = LoadOptions(
                engine,
                num_threads=num_threads,
                adapters=_adapters(located.adapters),
                tgt_non_granular_index=non_granular_index(which),
                speculate=None if which_draft is None else _speculate(which_draft, speculative_gamma, defaults),
                repeat_last_n=which.repeat_last_n,
                device=device,
            )
            model = load(cached(located), self._loading)
        self._requantizing = threading.Lock()
        self._changed = threading.Condition()  # guards what follows
        self._model: Model | None = model
        self._users: Counter[Model] = Counter()  # who is about to submit

    def send_chat_completion_request(
        self, request: ChatCompletionRequest
    ) -> ChatCompletionResponse | ChatCompletionStream:
        """With `stream` an iterator of chunks, at once; closing it cancels. Else waits for the whole answer."""
        _check_request(request, ChatCompletionRequest)
        with as_value_errors():
            drawing, model = self._draw(request)
            if request.stream:
                return ChatCompletionStream(request, drawing, model)
            return chat_response(request, drawing, model)

    def send_completion_request(self, request: CompletionRequest) -> CompletionResponse:
        """Waits for the whole answer."""
        _check_request(request, CompletionRequest)
        with as_value_errors():
            drawing, model = self._draw(request)
            return completion_response(request, drawing, model)

    def send_re_isq(self, dtype: str) -> None:
        """Quantizes the weights to another type. Requests of before are answered by the model of before.

        Returns when the new one has taken its place and the other has answered its last request.
        """
        with as_value_errors(), self._requantizing:
            with self._using() as model:
                adapters = model.adapters
            source, options = self._chosen
            new = re_isq(dtype, source, options, self._loading, adapters=adapters)
            old = self._replace(new)
            if old is None:
                new.close()
                raise _closed()
            self._retire(old, drain=math.inf)

    def activate_adapters(self, adapter_names: Sequence[str]) -> None:
        """From now on, what requests get that do not say."""
        with as_value_errors(), self._using() as model:
            if model.adapters is None:
                raise RequestError(without_adapters(model), param="adapter_names")
            model.adapters.activate(adapter_names)

    def close(self) -> None:
        """Ends what still runs, which raises ValueError wherever it is waited for."""
        model = self._replace(None)
        if model is not None:
            self._retire(model, drain=0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _draw(self, request: AnyRequest) -> tuple[Drawing, Model]:
        with self._using() as model:
            return Drawing(model.engine, asked(request, model)), model

    @contextmanager
    def _using(self) -> Iterator[Model]:
        """The model is not closed inside. Raises RequestError when it is already."""
        with self._changed:
            model = self._model
            if model is None:
                raise _closed()
            self._users[model] += 1
        try:
            yield model
        finally:
            with self._changed:
                self._users[model] -= 1
                self._changed.notify_all()

    def _replace(self, new: Model | None) -> Model | None:
        """The model of before; one that is closed stays so."""
        with self._changed:
            old = self._model
            self._model = None if old is None else new
        return old

    def _retire(self, model: Model, drain: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._users[model])
            del self._users[model]
        model.close(drain)


def _check_which(which: object, name: str) -> None:
    if not isinstance(which, AnyWhich):
        known = ", ".join(f"Which.{each}" for each in vars(Which) if not each.startswith("_"))
        raise TypeError(f"{name} must be one of {known}, got {type(which).__name__}")


def _check_request(request: object, kind: type[AnyRequest]) -> None:
    if not isinstance(request, kind):
        raise TypeError(f"a {kind.__name__} is sent this way, got {type(request).__name__}")


def _check_layers(num_device_layers: int | None) -> None:
    if num_device_layers:
        message = f"num_device_layers is {num_device_layers}, and there is one device, which takes all layers"
        raise CompileError(f"{message}: leave it out")


def _closed() -> RequestError:
    return RequestError("this Runner is closed: make another", status=503, code="closed")


def _options(chat_template: str | None, in_situ_quant: str | None) -> CompileOptions:
    template = None if chat_template is None else find_template(chat_template)
    isq = Isq() if in_situ_quant is None else Isq(parse_type(in_situ_quant))
    return CompileOptions(isq=isq, reading=Reading(chat_template=template))


def _adapters(located: LocatedAdapters) -> AdapterOptions | None:
    return AdapterOptions(located.loaded, active=located.active) if located.loaded else None


def _speculate(draft: AnyWhich, gamma: int, defaults: Defaults) -> SpeculateOptions:
    """The draft is quantized as the model is, unless it is already."""
    speculate = SpeculateOptions("lookup", gamma)  # refuses a gamma before anything is compiled
    isq = defaults.options.isq if draft.named().kind == "plain" else Isq()
    source, options = chosen(draft, replace(defaults, options=CompileOptions(isq=isq)))
    located = source.locate(options)
    if located.adapters.loaded:
        raise CompileError(f"the draft {source.model} cannot load adapters beside it: give an order without preloads")
    return replace(speculate, draft=cached(located))
