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
    "ChatCompletionChunkResponse",
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    "ChatCompletionStream",
    "CompileError",
    "CompletionOutput",
    "CompletionRequest",
    "CompletionResponse",
    "EngineArgs",
    "EngineOptions",
    "LoadOptions",
    "Logprob",
    "PackageError",
    "RequestError",
    "RequestOutput",
    "RequestOutputKind",
    "Runner",
    "SamplingParams",
    "SpeculateOptions",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "Usage",
    "VisionArchitecture",
    "Which",
    "compile",
    "demo_model",
    "kernel_library",
    "read_selector",
]

if TYPE_CHECKING:
    from .answers import ChatCompletionStream
    from .async_llm import AsyncLLM
    from .compiler.errors import CompileError
    from .compiling import compile  # noqa: A004 the name of what this library does
    from .engine_args import EngineArgs
    from .llm import LLM
    from .model import LoadOptions
    from .outputs import CompletionOutput, Logprob, RequestOutput
    from .prompts import TextPrompt, TokensPrompt
    from .requests import ChatCompletionRequest, CompletionRequest
    from .responses import ChatCompletionChunkResponse, ChatCompletionResponse, CompletionResponse, Usage
    from .runner import Runner
    from .runtime.engine_options import EngineOptions
    from .runtime.errors import PackageError, RequestError
    from .runtime.native import kernel_library
    from .sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
    from .selector import read_selector
    from .speculate import SpeculateOptions
    from .which import Architecture, VisionArchitecture, Which, demo_model
else:
    EXPORTS = {  # names, and the module that has each
        "Architecture": "which",
        "AsyncLLM": "async_llm",
        "ChatCompletionChunkResponse": "responses",
        "ChatCompletionRequest": "requests",
        "ChatCompletionResponse": "responses",
        "ChatCompletionStream": "answers",
        "CompileError": "compiler.errors",
        "CompletionOutput": "outputs",
        "CompletionRequest": "requests",
        "CompletionResponse": "responses",
        "EngineArgs": "engine_args",
        "EngineOptions": "runtime.engine_options",
        "LLM": "llm",
        "LoadOptions": "model",
        "Logprob": "outputs",
        "PackageError": "runtime.errors",
        "RequestError": "runtime.errors",
        "RequestOutput": "outputs",
        "RequestOutputKind": "sampling_params",
        "Runner": "runner",
        "SamplingParams": "sampling_params",
        "SpeculateOptions": "speculate",
        "StructuredOutputsParams": "sampling_params",
        "TextPrompt": "prompts",
        "TokensPrompt": "prompts",
        "Usage": "responses",
        "VisionArchitecture": "which",
        "Which": "which",
        "compile": "compiling",
        "demo_model": "which",
        "kernel_library": "runtime.native",
        "read_selector": "selector",
    }

    def __getattr__(name: str) -> object:
        if name not in EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{EXPORTS[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
