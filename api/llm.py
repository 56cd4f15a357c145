"""A model in this process for programs that wait: many prompts in one call, all in one batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

from mistralrs_onnx.runtime.engine import Output
from mistralrs_onnx.runtime.errors import RequestError

from .answering import Answering, stream
from .conversations import Conversation, conversation_list
from .in_process import InProcess, Tools
from .jobs import Adapters, Job
from .outputs import RequestOutput
from .prompts import Prompt, Prompts, prompt_list
from .sampling_params import SamplingParams

Sampling = SamplingParams | Sequence[SamplingParams] | None
AdaptersOfEach = Adapters | Sequence[Adapters]


class LLM(InProcess):
    """Answers many prompts at once. Use it as a context manager, or call `close`. Any thread may call.

    The arguments are those of `EngineArgs`; `report` is told of progress while the model is compiled. Raises
    CompileError and PackageError.
    """

    def generate(
        self,
        prompts: Prompts,
        sampling_params: Sampling = None,
        *,
        adapter: AdaptersOfEach = None,
        progress: bool = False,
    ) -> list[RequestOutput]:
        """The answers to each prompt, in the order of the prompts; all run together.

        `sampling_params`: of all, or of each; None: as the model recommends. `adapter`: a name or weights by name, of
        all or of each; None: those that are active. `progress`: show a bar on a terminal. Raises RequestError for the
        first that cannot be answered, and then ends the others.
        """
        each = prompt_list(prompts)
        params = _of_each("sampling_params", sampling_params, len(each))
        adapters = _of_each("adapter", adapter, len(each))
        jobs = [self._job(*one) for one in zip(each, params, adapters, strict=True)]
        return self._answers(jobs, progress=progress)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: Sampling = None,
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
        adapter: AdaptersOfEach = None,
        progress: bool = False,
    ) -> list[RequestOutput]:
        """As `generate`, of one conversation or of several. `tools`: as the chat template takes them."""
        each = conversation_list(messages)
        params = _of_each("sampling_params", sampling_params, len(each))
        adapters = _of_each("adapter", adapter, len(each))
        texts = [
            self.apply_chat_template(
                conversation,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                chat_template_kwargs=chat_template_kwargs,
            )
            for conversation in each
        ]
        jobs = [self._chat_job(*one) for one in zip(texts, params, adapters, strict=True)]
        return self._answers(jobs, progress=progress)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, adapter: Adapters = None
    ) -> Iterator[RequestOutput]:
        """Outputs to one prompt as they come; closing the iterator ends it. Raises RequestError."""
        return self._stream(self._job(prompt, sampling_params, adapter))

    def stream_chat(
        self,
        messages: Conversation,
        sampling_params: SamplingParams | None = None,
        *,
        tools: Tools | None = None,
        adapter: Adapters = None,
    ) -> Iterator[RequestOutput]:
        """As `stream`, of a conversation."""
        return self._stream(self._chat_job(self.apply_chat_template(messages, tools=tools), sampling_params, adapter))

    def _stream(self, job: Job) -> Iterator[RequestOutput]:
        return stream(self._answering(job))

    def _answers(self, jobs: Sequence[Job], *, progress: bool) -> list[RequestOutput]:
        outputs: SimpleQueue[tuple[Answering, int, Output]] = SimpleQueue()
        answerings = [self._answering(job) for job in jobs]
        try:
            for each in answerings:
                each.submit(partial(_put, outputs, each))
            with _bar(len(jobs), shown=progress) as advance:
                num_unfinished = len(jobs)
                while num_unfinished:
                    each, index, output = outputs.get()
                    each.add(index, output)
                    if output.finish_reason is not None and each.is_finished:
                        num_unfinished -= 1
                        advance()
            return [each.whole() for each in answerings]
        finally:
            for each in answerings:
                each.cancel()


def _put(outputs: SimpleQueue[tuple[Answering, int, Output]], answering: Answering, index: int, output: Output) -> None:
    outputs.put((answering, index, output))


def _of_each(name: str, value: Any, num_prompts: int) -> Sequence[Any]:
    """One value is of all; of a list each is of one prompt. Raises RequestError for lists of other lengths."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * num_prompts
    if len(value) != num_prompts:
        message = f"{name} has {len(value)} entries for {num_prompts} prompts: give one, or one for each"
        raise RequestError(message, param=name)
    return value


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """On a terminal only; it goes away when it is full."""
    if not (shown and sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Prompts", total=total)
        yield lambda: bar.advance(task)
