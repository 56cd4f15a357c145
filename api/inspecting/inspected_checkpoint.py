"""What a checkpoint says of itself, whether or not it can be compiled; weights are not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mistralrs_onnx.compiler.checkpoint import Checkpoint, Reading
from mistralrs_onnx.compiler.checkpoints.ggml_file import read_ggml
from mistralrs_onnx.compiler.checkpoints.gguf import read_gguf
from mistralrs_onnx.compiler.checkpoints.gguf_parts import part_paths
from mistralrs_onnx.compiler.checkpoints.metadata import Metadata
from mistralrs_onnx.compiler.checkpoints.safetensors import read_safetensors
from mistralrs_onnx.compiler.compile import CompileOptions, plan
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import CHAT_TEMPLATE
from mistralrs_onnx.sources.source import OPENERS, Kind

from .inspected_files import file_facts
from .inspection import Fact, Inspection, TensorFacts
from .package_files import Hashing

CONFIG = {
    "context": "max_position_embeddings",
    "vocabulary": "vocab_size",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "key_heads": "num_key_value_heads",
    "experts": "num_experts",
}


def inspect_gguf(path: Path, *, verify: bool, hashing: Hashing) -> Inspection:
    """Raises CompileError for a file that is damaged."""
    with read_gguf(path) as file:
        tensors = [TensorFacts(each.name, each.type, each.shape, each.nbytes) for each in file.tensors.values()]
        metadata, parts = dict(_metadata(file.metadata)), part_paths(path, file.metadata)
        said = {"name": metadata.get("general.name"), "architecture": metadata.get("general.architecture")}
        facts = {"format": f"GGUF v{file.version}", **said}
    template = metadata.get("tokenizer.chat_template")
    compiled, found = _compilable("gguf", path)
    return Inspection(
        "gguf",
        str(path),
        facts | compiled,
        tuple(tensors),
        files=tuple(file_facts(each, verify=verify, hashing=hashing) for each in parts),
        chat_template=template if isinstance(template, str) else found,
        metadata=metadata,
    )


def inspect_ggml(path: Path, *, verify: bool, hashing: Hashing) -> Inspection:
    """Raises CompileError for a file that is damaged."""
    with read_ggml(path) as file:
        tensors = [TensorFacts(each.name, each.type, each.shape, each.nbytes) for each in file.tensors.values()]
        facts: dict[str, Fact] = {"format": file.flavour}
    compiled, template = _compilable("ggml", path)
    files = (file_facts(path, verify=verify, hashing=hashing),)
    return Inspection("ggml", str(path), facts | compiled, tuple(tensors), files=files, chat_template=template)


def inspect_safetensors(path: Path, *, verify: bool, hashing: Hashing) -> Inspection:
    """A folder, or a file alone. Raises CompileError for a checkpoint that is damaged."""
    with read_safetensors(path) as file:
        tensors = [TensorFacts(each.name, each.dtype, each.shape, each.nbytes) for each in file.tensors.values()]
    facts: dict[str, Fact] = {"format": "safetensors"}
    template, files = None, [path]
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
        compiled, template = _compilable("plain", path)
        facts |= compiled
    listed = tuple(file_facts(each, verify=verify, hashing=hashing) for each in files)
    return Inspection("safetensors", str(path), facts, tuple(tensors), files=listed, chat_template=template)


def _compilable(kind: Kind, path: Path) -> tuple[dict[str, Fact], str | None]:
    """What compiling would see: its facts and the chat template; or only why it cannot be compiled."""
    try:
        with OPENERS[kind](path, Reading()) as checkpoint:
            facts = dict(_facts(checkpoint))
            plan(checkpoint, CompileOptions())
            files, ids = checkpoint.tokenizer()
    except CompileError as error:
        return {"compiles": f"no: {str(error).removeprefix(f'{path}: ')}"}, None
    tokens: dict[str, Fact] = {"bos_token": ids.bos, "eos_tokens": tuple(ids.eos)}
    template = files.get(CHAT_TEMPLATE)
    return facts | tokens | {"compiles": "yes"}, None if template is None else template.decode()


def _facts(checkpoint: Checkpoint) -> Iterator[tuple[str, Fact]]:
    yield "architecture", checkpoint.arch.name
    for label, key in CONFIG.items():
        value = checkpoint.config.values.get(key)
        if isinstance(value, int):
            yield label, value
    method = checkpoint.config.part("quantization_config").values.get("quant_method")
    if isinstance(method, str):
        yield "quantization", method


def _metadata(metadata: Metadata) -> Iterator[tuple[str, Any]]:
    """Arrays as their length: they hold vocabularies."""
    for key, value in metadata.items():
        yield key, f"[{len(value)}]" if isinstance(value, list | np.ndarray) else value
