"""A package, loaded: its engine, its tokenizer, its chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokenizers import Tokenizer

from mistralrs_onnx.graphs.contract import Manifest
from mistralrs_onnx.runtime.chat_template import ChatTemplate
from mistralrs_onnx.runtime.core import Runner
from mistralrs_onnx.runtime.draft_model import CHUNK as DRAFT_CHUNK
from mistralrs_onnx.runtime.draft_model import DraftModel
from mistralrs_onnx.runtime.engine import Engine, EngineOptions
from mistralrs_onnx.runtime.errors import PackageError, RequestError, RoomError
from mistralrs_onnx.runtime.generation import Defaults, read_defaults
from mistralrs_onnx.runtime.grammar.compiler import Grammar, GrammarCompiler
from mistralrs_onnx.runtime.grammar.masks import MaskWorker
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.sessions import num_processors, usable_device
from mistralrs_onnx.runtime.speculation import PromptLookup, Speculation
from mistralrs_onnx.runtime.token_bytes import TokenBytes
from mistralrs_onnx.runtime.uncached import Uncached

from .adapters import AdapterOptions, Adapters, with_packaged
from .cuda_runner import check_cuda_options, whole_memory
from .load_options import LoadOptions as LoadOptions
from .memory import available_memory
from .runners import make_runner as make_runner
from .runners import make_xlora_runner as make_xlora_runner
from .runners import start_draft, start_runner
from .speculate import check_vocabulary


class Model:
    """A loaded package. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        package: Package,
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        context_length: int,
        defaults: Defaults,
        adapters: Adapters | None = None,
        grammars: GrammarCompiler | None = None,
        *,
        truncate_sequence: bool = False,
    ) -> None:
        self.manifest: Manifest = package.manifest
        self.name = package.manifest.name
        self.engine = engine
        self.tokenizer = tokenizer
        self.chat_template = template
        self.context_length = context_length
        self.defaults = defaults
        self.adapters = adapters
        self.truncate_sequence = truncate_sequence  # of requests that do not say
        self.token_bytes = TokenBytes(tokenizer)
        self._grammars = grammars

    @property
    def mixed_adapters(self) -> tuple[str, ...]:
        """Names of the adapters that an X-LoRA mixes by itself: requests have no say in it."""
        record = self.manifest.xlora
        return () if record is None else record.adapters

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text, if `special` with the tokens that the model wants around every text."""
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    @property
    def template_source(self) -> str | None:
        """The text of the chat template, which shows how the model spells calls and thoughts."""
        return None if self.chat_template is None else self.chat_template.source

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation up to where the assistant speaks. `extra`: further variables of the template.

        Raises RequestError.
        """
        if self.chat_template is None:
            raise RequestError(f"{self.name} has no chat template: use completions", param="messages")
        prompt = self.chat_template.render([dict(message) for message in messages], tools=tools, extra=extra)
        return self.tokenizer.encode(prompt, add_special_tokens=False).ids

    def grammar(self, spec: GrammarSpec) -> Grammar:
        """Compiled, for `Engine.submit`. Waits for it; raises RequestError for what cannot be compiled."""
        if self._grammars is None:
            raise RequestError(f"{self.name} was loaded without grammars", code="unsupported", param=spec.param)
        return self._grammars.compile(spec)

    def close(self, drain: float = 0.0) -> None:
        """Ends the engine; running requests get `drain` seconds to finish."""
        self.engine.close(drain)
        if self._grammars is not None:
            self._grammars.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(path: Path, options: LoadOptions = LoadOptions(), adapters: Adapters | None = None) -> Model:
    """Opens a package, checks on a few tokens that this machine computes it well, and starts its engine.

    `adapters`: of the same model with weights of another type, to go on with instead of loading those of `options`.
    Raises PackageError.
    """
    package = open_package(path, verify=options.verify)
    defaults = _defaults(package, options)
    said = AdapterOptions() if adapters is not None and options.adapters is None else options.adapters
    options = replace(options, adapters=with_packaged(said, package))
    device = usable_device(options.device)
    if device.is_cuda:
        check_cuda_options(package, options, device)
    _check_xlora(package, options)
    adapters = _adapters(package, options, adapters)
    runner = start_runner(package, options)
    tokenizer = package.tokenizer()
    template = _template(package, tokenizer)
    speculation = _speculation(runner, tokenizer, options)
    limits = replace(options.engine, kv_mem=whole_memory(runner)) if device.is_cuda else options.engine
    num_threads = options.num_threads or num_processors()
    engine = _engine(package.manifest, runner, tokenizer, limits, speculation, num_threads)
    engine.start()
    grammars = GrammarCompiler(tokenizer, package.manifest.vocab_size, package.manifest.eos_token_ids)
    return Model(
        package,
        engine,
        tokenizer,
        template,
        runner.capacity,
        defaults,
        adapters,
        grammars,
        truncate_sequence=options.engine.truncate_sequence,
    )


def _defaults(package: Package, options: LoadOptions) -> Defaults:
    """What requests get that do not say."""
    recommended = read_defaults(package.path) if options.generation_config == "auto" else {}
    if options.repeat_last_n is None:
        return recommended
    try:
        return {**recommended, "repeat_last_n": SamplingParams(repeat_last_n=options.repeat_last_n).repeat_last_n}
    except RequestError as error:
        raise PackageError(str(error)) from error


def _adapters(package: Package, options: LoadOptions, given: Adapters | None) -> Adapters | None:
    if options.adapters is None:
        return None
    if given is None:
        return Adapters(package.manifest, options.adapters)
    if not given.fits(package.manifest):
        raise PackageError(f"{package.path} is of another model than the adapters: load it without them")
    return given


def _check_xlora(package: Package, options: LoadOptions) -> None:
    """Raises PackageError for options that do not go with the package."""
    record, index = package.manifest.xlora, options.tgt_non_granular_index
    if record is None and index is not None:
        raise PackageError(f"{package.path} has no X-LoRA: tgt_non_granular_index means nothing to it, leave it out")
    if record is not None and options.adapters is not None:
        mixed = ", ".join(record.adapters)
        raise PackageError(f"{package.path} mixes its own adapters ({mixed}) by X-LoRA: load no others beside it")
    if index is not None and index < 1:
        raise PackageError(f"tgt_non_granular_index counts generated tokens from 1, got {index}")


def _speculation(runner: Runner, tokenizer: Tokenizer, options: LoadOptions) -> Speculation | None:
    wanted = options.speculate
    if wanted is None:
        return None
    drafter = PromptLookup() if wanted.draft == "lookup" else _draft_model(runner, tokenizer, wanted.draft, options)
    return Speculation(drafter, wanted.gamma, adaptive=wanted.adaptive)


def _draft_model(runner: Runner, tokenizer: Tokenizer, path: Path, options: LoadOptions) -> DraftModel:
    """Keys and values of its tokens are kept for every request that runs. Raises PackageError."""
    package = open_package(path, verify=options.verify)
    check_vocabulary(tokenizer, package)
    length = min(runner.capacity, package.manifest.context_length)
    engine = replace(options.engine, max_model_len=length, prefill_chunk=DRAFT_CHUNK, kv_mem=None)
    own = replace(options, engine=engine, adapters=None, tgt_non_granular_index=None)
    draft = start_draft(package, own)
    if not engine.kv_cache:
        draft = Uncached(draft, num_slots=2 * engine.max_seqs, max_chunk=DRAFT_CHUNK)
    return DraftModel(draft, runner.vocab_size)


def _engine(
    manifest: Manifest,
    runner: Runner,
    tokenizer: Tokenizer,
    options: EngineOptions,
    speculation: Speculation | None,
    num_threads: int,
) -> Engine:
    kv_mem = options.kv_mem or max(available_memory() // 2, runner.capacity * runner.token_bytes)
    ends, worker = frozenset(manifest.eos_token_ids), MaskWorker(manifest.vocab_size)
    try:
        options = replace(options, kv_mem=kv_mem)
        return Engine(runner, tokenizer, ends, manifest.context_length, options, speculation, worker, num_threads)
    except RoomError:
        raise
    except ValueError as error:
        raise PackageError(str(error)) from error


def _template(package: Package, tokenizer: Tokenizer) -> ChatTemplate | None:
    source, bos = package.chat_template(), package.manifest.bos_token_id
    if source is None:
        return None
    eos = tokenizer.id_to_token(package.manifest.eos_token_ids[0])
    return ChatTemplate(source, bos_token=None if bos is None else tokenizer.id_to_token(bos), eos_token=eos)
