"""The answers to one request of a Runner: what the engine is asked for, and what it has told so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

from mistralrs_onnx.runtime.adapter_registry import Part
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.answers import Output
from mistralrs_onnx.runtime.engine import Engine
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.generation import Defaults
from mistralrs_onnx.runtime.grammar.compiler import Grammar
from mistralrs_onnx.runtime.logprobs import TokenLogprobs, mean_logprob
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.speeds import speeds

from .conversations import for_template
from .model import Model
from .requests import AnyRequest, ChatCompletionRequest
from .responses import FinishReason, Usage

MAX_DRAWN = 64  # answers to one request


class Asked(NamedTuple):
    """A prompt and how to continue it. `num_told`: of those that are drawn, the likeliest."""

    prompt_ids: Sequence[int]
    params: SamplingParams
    num_drawn: int
    num_told: int
    grammar: Grammar | None
    adapter: Adapter | None

    def params_of(self, index: int) -> SamplingParams:
        """With a seed, each answer gets its own, so that they differ and can be had again."""
        params = self.params
        return params if params.seed is None else replace(params, seed=params.seed + index)


def asked(request: AnyRequest, model: Model) -> Asked:
    """Compiles a grammar and combines adapters, which takes its time. Raises RequestError."""
    if request.num_drawn > MAX_DRAWN:
        raise RequestError(f"at most {MAX_DRAWN} answers to a request, got {request.num_drawn}", param="n_choices")
    spec = request.spec()
    return Asked(
        _prompt(request, model),
        _params(request, model.defaults),
        request.num_drawn,
        request.n_choices,
        None if spec is None else model.grammar(spec),
        _adapter(request.adapters, model),
    )


def _prompt(request: AnyRequest, model: Model) -> list[int]:
    if not isinstance(request, ChatCompletionRequest):
        return model.encode(request.prompt)
    messages = request.messages
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    return model.encode_chat([for_template(each) for each in said], extra=request.chat_template_kwargs)


def _params(request: AnyRequest, defaults: Defaults) -> SamplingParams:
    stops = [request.stop_seqs] if isinstance(request.stop_seqs, str) else request.stop_seqs
    wanted: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "seed": request.seed,
        "stop": None if stops is None else tuple(stops),
        "logit_bias": None if request.logit_bias is None else {**defaults.get("logit_bias", {}), **request.logit_bias},
        "logprobs": request.num_logprobs,
    }
    return SamplingParams(**{**defaults, **{name: value for name, value in wanted.items() if value is not None}})


def _adapter(names: Sequence[str] | None, model: Model) -> Adapter | None:
    if model.adapters is not None:
        return model.adapters.select(None if names is None else [Part(name) for name in names])
    if names:
        raise RequestError(without_adapters(model), param="adapters")
    return None


def without_adapters(model: Model) -> str:
    """Why there are none to choose."""
    if model.mixed_adapters:
        mixed = ", ".join(model.mixed_adapters)
        return f"{model.name} mixes its own adapters ({mixed:.200}) for each token (X-LoRA): requests cannot choose any"
    return f"{model.name} was loaded without adapters: name some in preload_adapters of an ordering file (Which.Lora)"


@dataclass(slots=True)
class Answer:
    """One of them, as it grows."""

    texts: list[str] = field(default_factory=list)
    scores: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Drawing:
    """Runs from the beginning until all answers are there, or until it is closed. Of one thread, but for `close`."""

    def __init__(self, engine: Engine, asked: Asked) -> None:
        """Raises RequestError, and then nothing runs."""
        self._engine = engine
        self._asked = asked
        self._outputs: SimpleQueue[tuple[int, Output]] = SimpleQueue()
        self._requests: list[Request] = []
        self.answers = [Answer() for _ in range(asked.num_drawn)]
        try:
            for index in range(asked.num_drawn):
                self._requests.append(self._submit(index))
        except BaseException:
            self.close()
            raise

    def _submit(self, index: int) -> Request:
        return self._engine.submit(
            self._asked.prompt_ids,
            self._asked.params_of(index),
            partial(self._put, index),
            adapter=self._asked.adapter,
            parent=self._requests[0] if index else None,
            grammar=self._asked.grammar,
        )

    def _put(self, index: int, output: Output) -> None:
        self._outputs.put((index, output))

    @property
    def is_finished(self) -> bool:
        return all(answer.finish_reason is not None for answer in self.answers)

    def next(self) -> tuple[int, Output]:
        """What is new of an answer, when there is something. Raises RequestError where one failed."""
        index, output = self._outputs.get()
        if output.error is not None:
            raise output.error
        answer, reason = self.answers[index], output.finish_reason
        if reason == "cancelled" or reason == "error":
            raise RequestError("the answer ended early, for the model was closed", status=503, code="draining")
        answer.texts.append(output.text)
        answer.scores += output.logprobs
        answer.finish_reason = reason
        return index, output

    def finish(self) -> list[Answer]:
        """Waits for all; the likeliest first, where some are not told. Raises RequestError."""
        try:
            while not self.is_finished:
                self.next()
        finally:
            self.close()
        if self._asked.num_drawn == self._asked.num_told:
            return self.answers
        best = sorted(self.answers, key=lambda answer: -mean_logprob(answer.scores))
        return best[: self._asked.num_told]

    def close(self) -> None:
        """Cancels what still runs."""
        for request in self._requests:
            self._engine.cancel(request)

    def usage(self) -> Usage:
        """Of answers that are all there."""
        requests = self._requests
        prompt, completion = requests[0].num_prompt, sum(request.num_output for request in requests)
        timed = speeds(requests, self._asked.num_drawn, prompt, completion)
        return Usage(completion, prompt, prompt + completion, **timed._asdict())
