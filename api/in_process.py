"""A model that runs in this process: how it is opened and closed, and what `LLM` and `AsyncLLM` have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from tokenizers import Tokenizer

from mistralrs_onnx.compiler.progress import Report, quiet
from mistralrs_onnx.runtime.engine import EngineStats
from mistralrs_onnx.runtime.errors import RequestError

from .answering import Answering, closed
from .conversations import Conversation, for_template
from .engine_args import EngineArgs
from .jobs import Adapters, Job, make_job
from .model import LoadOptions, Model
from .prompts import Encoded, Prompt, encoded
from .sampling_params import SamplingParams
from .which import AnyWhich

Tools = Sequence[Mapping[str, Any]]


class InProcess:
    """The arguments are those of `EngineArgs`; `report` is told of progress while the model is compiled. Raises
    CompileError and PackageError.
    """

    def __init__(
        self,
        model: str | Path | AnyWhich,
        *,
        filename: str | None = None,
        tokenizer: str | Path | None = None,
        chat_template: str | None = None,
        revision: str | None = None,
        isq: str | None = None,
        dtype: str = "auto",
        token_source: str = "cache",
        offline: bool = False,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        enable_prefix_caching: bool | None = None,
        device: str | None = None,
        adapters: Mapping[str, str | Path] = MappingProxyType({}),
        options: LoadOptions | None = None,
        report: Report = quiet,
    ) -> None:
        args = EngineArgs(
            model,
            filename=filename,
            tokenizer=tokenizer,
            chat_template=chat_template,
            revision=revision,
            isq=isq,
            dtype=dtype,
            token_source=token_source,
            offline=offline,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            enable_prefix_caching=enable_prefix_caching,
            device=device,
            adapters=adapters,
            options=options,
        )
        self._take(args.open(report), owned=True)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, report: Report = quiet) -> Self:
        made = cls.__new__(cls)
        cls._take(made, engine_args.open(report), owned=True)
        return made

    @classmethod
    def of(cls, model: Model) -> Self:
        """Of a model that is loaded already, and stays so when this is closed."""
        made = cls.__new__(cls)
        cls._take(made, model, owned=False)
        return made

    def _take(self, model: Model, *, owned: bool) -> None:
        self.model = model
        self._is_owned = owned
        self._is_closed = False
        self._ids = count()

    def get_default_sampling_params(self) -> SamplingParams:
        """As the model's generation_config.json recommends."""
        return SamplingParams(**self.model.defaults)

    def get_tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self.model.encode(text, special=add_special_tokens)

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text: str = self.model.tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def stats(self) -> EngineStats:
        """How many requests run and wait, and what was done since the start."""
        return self.model.engine.stats()

    def apply_chat_template(
        self,
        conversation: Conversation,
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """The prompt of a conversation. Raises RequestError."""
        template = self.model.chat_template
        if template is None:
            raise RequestError(f"{self.model.name} has no chat template: use generate", param="messages")
        return template.render(
            [for_template(message) for message in conversation],
            add_generation_prompt=add_generation_prompt,
            tools=tools or None,
            extra=chat_template_kwargs,
        )

    def close(self) -> None:
        """Nothing can be asked from then on. What runs is ended with finish reason "abort", but not in a model that was
        given.
        """
        self._is_closed = True
        if self._is_owned:
            self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _job(self, prompt: Prompt, params: SamplingParams | None, adapter: Adapters) -> Job:
        return self._made(encoded(prompt, self.model), params, adapter)

    def _chat_job(self, prompt: str, params: SamplingParams | None, adapter: Adapters) -> Job:
        """Of what a template wrote, which has all special tokens that it wants."""
        return self._made(Encoded(prompt, self.tokenize(prompt, add_special_tokens=False)), params, adapter)

    def _made(self, prompt: Encoded, params: SamplingParams | None, adapter: Adapters) -> Job:
        if self._is_closed:
            raise closed()
        if not isinstance(params, SamplingParams | None):
            raise TypeError(f"sampling_params must be SamplingParams, got {params!r:.64}")
        return make_job(self.model, prompt, params or self.get_default_sampling_params(), adapter)

    def _answering(self, job: Job, request_id: str | None = None) -> Answering:
        """With an id of its own where none is given."""
        return Answering(self.model.engine, job, request_id or str(next(self._ids)), self.model.token_bytes)
