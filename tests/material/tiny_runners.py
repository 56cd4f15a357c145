"""Runners of tiny models, and what tests ask of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mistralrs_onnx.requests import ChatCompletionRequest, CompletionRequest
from mistralrs_onnx.responses import ChatCompletionResponse, CompletionResponse
from mistralrs_onnx.runner import Runner
from mistralrs_onnx.which import Which


def tiny_which(tiny_llama: Any, folder: Path, name: str = "tiny", **changes: Any) -> Which.GGUF:
    """A random Llama, whose tokenizer knows the letters; `changes`: of the fixture."""
    tiny = tiny_llama(folder / f"{name}.gguf")
    for field, value in changes.items():
        setattr(tiny, field, value)
    return Which.GGUF(None, str(folder), tiny.write().name)


def tiny_runner(which: Any, **options: Any) -> Runner:
    return Runner(which, **{"max_seqs": 4, "chat_template": "chatml", "num_threads": 1, **options})


def chat_request(text: Any = "say something", **fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(text, "tiny", **{"max_tokens": 12, "seed": 1, **fields})


def chat(runner: Runner, text: Any = "say something", **fields: Any) -> ChatCompletionResponse:
    response = runner.send_chat_completion_request(chat_request(text, **fields))
    assert isinstance(response, ChatCompletionResponse)
    return response


def said(runner: Runner, text: Any = "say something", **fields: Any) -> str:
    return chat(runner, text, **fields).choices[0].message.content


def complete(runner: Runner, prompt: str = "abc", **fields: Any) -> CompletionResponse:
    request = CompletionRequest(prompt, "tiny", **{"max_tokens": 12, "seed": 1, **fields})
    return runner.send_completion_request(request)
