"""The tensors of an adapter's file as pairs of A and B by module; only the header is read here."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

from mistralrs_onnx.compiler.checkpoints.safetensors import SafeTensor
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Shape
from mistralrs_onnx.graphs.weights import DENSE

from .experts import parameter_of
from .modules import EMBEDDING, Module

logger = logging.getLogger(__name__)

MAX_NAME = 512

_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
# PEFT saves these beside adapters of the head.
_TABLE = re.compile(r"(?:base_model\.model\.)?(?P<name>lm_head|model\.embed_tokens)(?:\.base_layer)?\.weight")
_REASONS = {
    "lora_embedding_": "adapters of embeddings are not supported",
    "lora_magnitude_vector": "DoRA is not supported",
    "modules_to_save": "modules_to_save is not supported",
    ".bias": "biases are not supported",
}


class Pair(NamedTuple):
    """A and B of a module as they lie in the file: (rank, K) and (N, rank)."""

    a: SafeTensor
    b: SafeTensor


def without_tables(tensors: Mapping[str, SafeTensor], shapes: Mapping[str, Shape]) -> dict[str, SafeTensor]:
    """All but copies of the base's tables, which PEFT saves to be sure."""
    kept = {}
    for name, tensor in tensors.items():
        table = _TABLE.fullmatch(name[:MAX_NAME])
        if table is None:
            kept[name] = tensor
            continue
        wanted = shapes.get(f"{table['name']}.weight", shapes.get(EMBEDDING))
        if tensor.shape != wanted:
            raise CompileError(f"tensor {name} has shape {tensor.shape}, the base's table has {wanted}: it is another")
        logger.warning("tensor %s is taken for a copy of the base's, and not used", name)
    return kept


def find_pairs(tensors: Mapping[str, SafeTensor]) -> dict[str, Pair]:
    """By module. Raises CompileError, which names the tensor, for what is no LoRA tensor or has no partner."""
    parts: dict[str, dict[str, SafeTensor]] = {}
    adapters: dict[str | None, str] = {}
    for name, tensor in tensors.items():
        module, part, adapter = _parse_key(name)
        adapters.setdefault(adapter, name)
        other = parts.setdefault(module, {}).setdefault(part, tensor)
        if other is not tensor:
            raise CompileError(f"tensors {other.name} and {name} are the same: which is not clear")
    if len(adapters) > 1:
        raise CompileError(f"tensors {' and '.join(list(adapters.values())[:2])} are of different adapters")
    return {module: _pair(module, found) for module, found in parts.items()}


def itemsize(tensor: SafeTensor) -> int:
    if tensor.dtype not in DENSE:
        raise CompileError(
            f"tensor {tensor.name} has type {tensor.dtype}, supported here: {', '.join(DENSE)}: save it as one of them"
        )
    return DENSE[tensor.dtype].itemsize


def _parse_key(name: str) -> tuple[str, str, str | None]:
    if len(name) > MAX_NAME:
        raise CompileError(f"names of tensors have at most {MAX_NAME} letters, got {len(name)}: {name[:80]}...")
    reason = next((why for part, why in _REASONS.items() if part in name), None)
    if reason is not None:
        raise CompileError(f"tensor {name}: {reason}")
    match = _KEY.fullmatch(name)
    if match is None:
        raise CompileError(f"tensor {name} is not of LoRA: names end in .lora_A.weight or .lora_B.weight")
    return match["module"], match["part"], match["adapter"]


def _pair(module: str, parts: Mapping[str, SafeTensor]) -> Pair:
    if len(parts) < 2:
        there = next(iter(parts.values())).name
        missing = "B" if "A" in parts else "A"
        raise CompileError(f"tensor {there} has no lora_{missing} beside it: the file is incomplete")
    return Pair(parts["A"], parts["B"])


def of_parameters(pairs: Mapping[str, Pair], parameters: Mapping[str, Module]) -> dict[str, Pair]:
    """Under the names of parameters, where modules are containers of experts."""
    found: dict[str, Pair] = {}
    for module, pair in pairs.items():
        shape = (pair.b.shape or (0,))[0], (pair.a.shape or (0,))[-1]
        name = parameter_of(module, shape, parameters)
        if name in found:
            raise CompileError(f"tensors {found[name].a.name} and {pair.a.name} are both of {name}: which is not clear")
        found[name] = pair
    return found
