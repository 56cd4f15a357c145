"""A package, loaded: its engine, its tokenizer, its chat template."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokenizers import Tokenizer

from mistralrs_onnx.graphs.contract import KVDtype, Manifest
from mistralrs_onnx.runtime.chat_template import ChatTemplate
from mistralrs_onnx.runtime.engine import Engine, EngineOptions
from mistralrs_onnx.runtime.errors import PackageError, RequestError
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.probe import check_logits, is_invariant
from mistralrs_onnx.runtime.runner import Determinism, OrtRunner
from mistralrs_onnx.runtime.sessions import make_session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a package runs.

    `kv_dtype`: of the keys and values kept. `determinism`: "invariant" gives the same bits whatever else runs; "fast"
    gives that up for chunks and drafts. `num_threads`: None takes every processor. `verify`: check sha256 sums.
    """

    engine: EngineOptions = field(default_factory=EngineOptions)
    kv_dtype: KVDtype = "float32"
    determinism: Determinism = "invariant"
    num_threads: int | None = None
    verify: bool = False


class Model:
    """A loaded package. Use it as a context manager, or call `close`."""

    def __init__(self, package: Package, engine: Engine, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self.manifest: Manifest = package.manifest
        self.name = package.manifest.name
        self.engine = engine
        self.tokenizer = tokenizer
        self.chat_template = template

    @property
    def context_length(self) -> int:
        return self.engine.max_model_len

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the tokens that the model wants around every text."""
        return self.tokenizer.encode(text).ids

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation up to where the assistant speaks. Raises RequestError."""
        if self.chat_template is None:
            raise RequestError(f"{self.name} has no chat template: use completions", param="messages")
        prompt = self.chat_template.render([dict(message) for message in messages])
        return self.tokenizer.encode(prompt, add_special_tokens=False).ids

    def close(self, drain: float = 0.0) -> None:
        """Ends the engine; running requests get `drain` seconds to finish."""
        self.engine.close(drain)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(path: Path, options: LoadOptions = LoadOptions()) -> Model:
    """Opens a package, checks on a few tokens that this machine computes it well, and starts its engine.

    Raises PackageError.
    """
    package = open_package(path, verify=options.verify)
    runner = make_runner(package, options)
    check_logits(runner)
    if options.determinism == "invariant" and not is_invariant(runner):
        logger.warning("on this machine the same request may give other tokens in another batch (doubtful near ties)")
    tokenizer = package.tokenizer()
    engine = Engine(
        runner, tokenizer, frozenset(package.manifest.eos_token_ids), package.manifest.context_length, options.engine
    )
    engine.start()
    return Model(package, engine, tokenizer, _template(package, tokenizer))


def make_runner(package: Package, options: LoadOptions) -> OrtRunner:
    """The runner of a package, with twice as many slots as requests: the others keep finished conversations."""
    limits, manifest = options.engine, package.manifest
    max_model_len = limits.max_model_len or manifest.context_length
    if max_model_len > manifest.context_length:
        raise PackageError(f"{manifest.name} was made for {manifest.context_length} tokens, asked for {max_model_len}")
    return OrtRunner(
        make_session(package.engine(options.kv_dtype), options.num_threads),
        manifest,
        num_slots=2 * limits.max_seqs,
        max_model_len=max_model_len,
        max_chunk=limits.prefill_chunk,
        kv_dtype=options.kv_dtype,
        determinism=options.determinism,
    )


def _template(package: Package, tokenizer: Tokenizer) -> ChatTemplate | None:
    source = package.chat_template()
    if source is None:
        return None
    bos = package.manifest.bos_token_id
    texts = {"bos_token": None if bos is None else tokenizer.id_to_token(bos)}
    return ChatTemplate(source, bos_token=texts["bos_token"], eos_token=tokenizer.id_to_token(package.manifest.eos_token_ids[0]))
