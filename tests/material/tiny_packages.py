"""Packages of a tiny random Llama, whose tokenizer knows the letters, to run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mistralrs_onnx.compiling import compile as compile_package
from mistralrs_onnx.runtime.engine import Engine
from mistralrs_onnx.runtime.sampling import SamplingParams as Draw

CONTEXT = 256


def tiny_package(tiny_llama: Any, folder: Path, **options: Any) -> Path:
    """`options`: of `compile`."""
    folder.mkdir(parents=True, exist_ok=True)
    gguf = tiny_llama(folder / "tiny.gguf").write()
    return compile_package(gguf, folder / "package", **{"chat_template": "chatml", **options})


def alone(engine: Engine, prompt_ids: list[int], **params: Any) -> tuple[int, ...]:
    """Tokens of the one request that runs."""
    outputs = engine.generate(prompt_ids, Draw(**params))
    return tuple(token_id for output in outputs for token_id in output.token_ids)
