"""What an engine of this process is made from: which model, and how it runs, under the names that vLLM has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.isq_map import parse_type
from mistralrs_onnx.compiler.progress import Report, quiet
from mistralrs_onnx.compiler.sources.token_source import parse_token_source
from mistralrs_onnx.runtime.engine_options import EngineOptions

from .adapters import AdapterOptions
from .cache import cached_package
from .finding import find_source, is_package
from .model import LoadOptions, Model, load

UNBOUNDED = 1 << 31  # requests that wait: who calls a function has nobody to protect the queue from


@dataclass(frozen=True, slots=True)
class EngineArgs:
    """`model`: a package, a GGUF file, a folder of safetensors, the name of a repository of the hub, or "demo".

    What is no package is compiled once and kept; for that are `filename` (of a GGUF file in `model`), `tokenizer`,
    `revision`, `isq`, `dtype`, `token_source` and `offline`, which mean what they mean to `compile`.
    `max_model_len`, `max_num_seqs` (requests that run at a time) and `enable_prefix_caching`: None is as `options` say,
    which hold everything else; without them any number of requests may wait. `adapters`: folders as PEFT saves them, by
    the names that requests choose them by.
    """

    model: str | Path
    filename: str | None = None
    tokenizer: str | Path | None = None
    revision: str | None = None
    isq: str | None = None
    dtype: str = "auto"
    token_source: str = "cache"
    offline: bool = False
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    enable_prefix_caching: bool | None = None
    adapters: Mapping[str, str | Path] = field(default_factory=dict)
    options: LoadOptions | None = None

    def open(self, report: Report = quiet) -> Model:
        """Compiles what has to be, and loads it. Raises CompileError and PackageError."""
        return load(self.package(report), self.load_options())

    def package(self, report: Report = quiet) -> Path:
        """Raises CompileError."""
        if is_package(self.model):
            self._refuse_options_of_checkpoints()
            return Path(self.model).expanduser()
        source = replace(
            find_source(self.model, self.filename),
            tokenizer=None if self.tokenizer is None else str(self.tokenizer),
            revision=self.revision,
            token_source=parse_token_source(self.token_source),
            offline=self.offline,
        )
        isq = Isq(None if self.isq is None else parse_type(self.isq))
        return cached_package(source, CompileOptions(dtype=self.dtype, isq=isq), report)

    def load_options(self) -> LoadOptions:
        """`options`, with what is said beside them."""
        engine: dict[str, Any] = {
            "max_model_len": self.max_model_len,
            "max_seqs": self.max_num_seqs,
            "prefix_cache": self.enable_prefix_caching,
        }
        said = {name: value for name, value in engine.items() if value is not None}
        options = self.options or LoadOptions(EngineOptions(max_queue=UNBOUNDED))
        options = replace(options, engine=replace(options.engine, **said))
        if not self.adapters:
            return options
        adapters = options.adapters or AdapterOptions()
        own = {name: Path(folder).expanduser() for name, folder in self.adapters.items()}
        return replace(options, adapters=replace(adapters, modules={**adapters.modules, **own}))

    def _refuse_options_of_checkpoints(self) -> None:
        unsaid = EngineArgs(self.model)
        values = {
            "filename": (self.filename, unsaid.filename),
            "tokenizer": (self.tokenizer, unsaid.tokenizer),
            "revision": (self.revision, unsaid.revision),
            "isq": (self.isq, unsaid.isq),
            "dtype": (self.dtype, unsaid.dtype),
        }
        for name, (said, default) in values.items():
            if said != default:
                raise CompileError(f"{self.model} is compiled already: {name} {said!r} comes too late, leave it out")
