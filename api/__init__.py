"""Language models on ONNX Runtime: compile a checkpoint, run the package, serve it.

Names are imported when they are first used, so that `import mistralrs_onnx` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "LLM",
    "Architecture",
    "AsyncLLM",
    "CompileError",
    "CompletionOutput",
    "EngineArgs",
    "EngineOptions",
    "LoadOptions",
    "Logprob",
    "PackageError",
    "RequestError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "VisionArchitecture",
    "Which",
    "compile",
]

if TYPE_CHECKING:
    from .async_llm import AsyncLLM
    from .compiler.errors import CompileError
    from .compiling import compile  # noqa: A004 the name of what this library does
    from .engine_args import EngineArgs
    from .llm import LLM
    from .model import LoadOptions
    from .outputs import CompletionOutput, Logprob, RequestOutput
    from .prompts import TextPrompt, TokensPrompt
    from .runtime.engine_options import EngineOptions
    from .runtime.errors import PackageError, RequestError
    from .sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
    from .which import Architecture, VisionArchitecture, Which
else:
    EXPORTS = {  # names, and the module that has each
        "Architecture": "which",
        "AsyncLLM": "async_llm",
        "CompileError": "compiler.errors",
        "CompletionOutput": "outputs",
        "EngineArgs": "engine_args",
        "EngineOptions": "runtime.engine_options",
        "LLM": "llm",
        "LoadOptions": "model",
        "Logprob": "outputs",
        "PackageError": "runtime.errors",
        "RequestError": "runtime.errors",
        "RequestOutput": "outputs",
        "RequestOutputKind": "sampling_params",
        "SamplingParams": "sampling_params",
        "StructuredOutputsParams": "sampling_params",
        "TextPrompt": "prompts",
        "TokensPrompt": "prompts",
        "VisionArchitecture": "which",
        "Which": "which",
        "compile": "compiling",
    }

    def __getattr__(name: str) -> object:
        if name not in EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{EXPORTS[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
