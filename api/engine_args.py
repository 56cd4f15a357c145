"""What an engine of this process is made from: which model, and how it runs, under the names that vLLM has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.isq_map import parse_type
from mistralrs_onnx.compiler.progress import Report, quiet
from mistralrs_onnx.compiler.sources.token_source import parse_token_source
from mistralrs_onnx.compiler.templates.find import find_template
from mistralrs_onnx.runtime.engine_options import EngineOptions
from mistralrs_onnx.runtime.sessions import usable_device

from .adapters import AdapterOptions
from .caching.cache import cached
from .model import LoadOptions, Model, load
from .sources.adapter_source import LocatedAdapters
from .sources.finding import find_source, is_package
from .sources.source import Located
from .which import AnyWhich, Defaults, chosen, non_granular_index

SAID_OF_CHECKPOINTS = ("filename", "tokenizer", "chat_template", "revision", "isq", "dtype")
NONE_LOCATED = LocatedAdapters()
UNBOUNDED = 1 << 31  # requests that wait: who calls a function has nobody to protect the queue from


@dataclass(frozen=True, slots=True)
class EngineArgs:
    """`model`: a package, a GGUF file, a folder of safetensors, the name of a repository of the hub, "demo", or a
    `Which`, which says more of it.

    What is no package is compiled once and kept; for that are `filename` (of a GGUF file in `model`), `tokenizer`,
    `chat_template`, `revision`, `isq`, `dtype`, `token_source` and `offline`, which mean what they mean to `compile`.
    `max_model_len`, `max_num_seqs` (requests that run at a time), `enable_prefix_caching` and `device` (cpu, cuda or
    cuda:1): None is as `options` say, which hold everything else; without them any number of requests may wait.
    `adapters`: folders as PEFT saves them, by the names that requests choose them by.
    """

    model: str | Path | AnyWhich
    filename: str | None = None
    tokenizer: str | Path | None = None
    chat_template: str | None = None
    revision: str | None = None
    isq: str | None = None
    dtype: str = "auto"
    token_source: str = "cache"
    offline: bool = False
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    enable_prefix_caching: bool | None = None
    device: str | None = None
    adapters: Mapping[str, str | Path] = field(default_factory=dict)
    options: LoadOptions | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | Path | AnyWhich):
            raise TypeError(f"model must be a text, a path or a Which, got {self.model!r:.64}")
        for name, value in {"max_model_len": self.max_model_len, "max_num_seqs": self.max_num_seqs}.items():
            if not isinstance(value, int | None):
                raise TypeError(f"{name} must be an int, got {value!r:.64}")

    def open(self, report: Report = quiet) -> Model:
        """Compiles what has to be, and loads it. Raises CompileError and PackageError."""
        usable_device(self.load_options().device)  # before anything is compiled
        if isinstance(self.model, AnyWhich):
            located = self._chosen(self.model, report)
        elif is_package(self.model):
            self._refuse("is compiled already: {} comes too late, leave it out", *SAID_OF_CHECKPOINTS)
            return load(Path(self.model).expanduser(), self.load_options())
        else:
            located = self._found(self.model, report)
        return load(cached(located, report), self.load_options(located.adapters))

    def load_options(self, located: LocatedAdapters = NONE_LOCATED) -> LoadOptions:
        """`options`, with what is said beside them. `located`: the adapters that a `Which` loads."""
        engine: dict[str, Any] = {
            "max_model_len": self.max_model_len,
            "max_seqs": self.max_num_seqs,
            "prefix_cache": self.enable_prefix_caching,
        }
        said = {name: value for name, value in engine.items() if value is not None}
        options = self.options or LoadOptions(EngineOptions(max_queue=UNBOUNDED))
        options = replace(options, engine=replace(options.engine, **said), adapters=self._adapters(options, located))
        options = options if self.device is None else replace(options, device=self.device)
        if isinstance(self.model, AnyWhich):
            index = non_granular_index(self.model)
            options = replace(options, tgt_non_granular_index=index, repeat_last_n=self.model.repeat_last_n)
        return options

    def _found(self, model: str | Path, report: Report) -> Located:
        source = replace(
            find_source(model, self.filename),
            tokenizer=None if self.tokenizer is None else str(self.tokenizer),
            revision=self.revision,
            token_source=parse_token_source(self.token_source),
            offline=self.offline,
        )
        return source.locate(replace(self._compile_options(), dtype=self.dtype), report)

    def _chosen(self, which: AnyWhich, report: Report) -> Located:
        self._refuse("has it itself: leave {} out", "filename", "tokenizer", "revision", "dtype")
        defaults = Defaults(self._compile_options(), parse_token_source(self.token_source), self.offline)
        source, options = chosen(which, defaults)
        return source.locate(options, report)

    def _compile_options(self) -> CompileOptions:
        template = None if self.chat_template is None else find_template(self.chat_template)
        isq = Isq(None if self.isq is None else parse_type(self.isq))
        return CompileOptions(isq=isq, reading=Reading(chat_template=template))

    def _adapters(self, options: LoadOptions, located: LocatedAdapters) -> AdapterOptions | None:
        own = {name: Path(folder).expanduser() for name, folder in self.adapters.items()}
        if not own and not located.loaded:
            return options.adapters
        given = options.adapters or AdapterOptions(active=located.active)
        return replace(given, modules={**given.modules, **located.loaded, **own})

    def _refuse(self, reason: str, *names: str) -> None:
        """Raises CompileError for those that are said."""
        unsaid = EngineArgs(self.model)
        for name in names:
            value = getattr(self, name)
            if value != getattr(unsaid, name):
                raise CompileError(f"{self.model} " + reason.format(f"{name} {value!r}"))
