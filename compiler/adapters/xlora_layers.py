"""Which set of scalings each adapted layer takes: X-LoRA numbers layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mistralrs_onnx.compiler.archs.arch import Arch
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Naming, Shape

from .modules import stored_modules
from .ordering import Ordering, layer_numbers

# The order in which models of transformers have their modules, by what names end in: that of PEFT's numbers.
_BLOCKS = ("self_attn", "block_sparse_moe", "mlp")
_PARTS = ("gate", "experts", "shared_expert", "shared_expert_gate")
_LINEARS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "dense", "qkv_proj"),
    *("gate_up_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2", "c_fc", "c_proj", "w1", "w2", "w3"),
)


class Numbers(NamedTuple):
    """`by_linear`: of each adapted linear by canonical name, below `num_layers`; fused ones share one."""

    by_linear: dict[str, int]
    num_layers: int


def number_layers(
    ordering: Ordering | None, arch: Arch, shapes: Mapping[str, Shape], adapted: Iterable[str]
) -> Numbers:
    """The numbers of the ordering file, else those that PEFT gives: 0, 1, ... in the order of modules.

    Raises CompileError for a layer that is not there, or has no number, or one too large.
    """
    adapted = tuple(adapted)
    modules = ordered_modules(arch.hf_naming, shapes, adapted)
    if ordering is None or not ordering.layers:
        return Numbers({name: i for i, names in enumerate(modules.values()) for name in names}, len(modules))
    numbers = layer_numbers(ordering, arch, shapes)
    _check_numbers(numbers, adapted, len(modules))
    return Numbers({name: numbers[name] for name in adapted}, len(modules))


def _check_numbers(numbers: Mapping[str, int], adapted: Iterable[str], count: int) -> None:
    for name in adapted:
        if name not in numbers:
            raise CompileError(f"layers of the ordering file has no number for {name}, which is adapted")
        if numbers[name] >= count:
            raise CompileError(
                f"layers of the ordering file has number {numbers[name]} for {name}: {count} layers are adapted,"
                f" so that numbers are 0 to {count - 1}"
            )


def ordered_modules(naming: Naming, shapes: Mapping[str, Shape], linears: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Modules of the Hugging Face model that these linears are (parts of), in its order, with their canonical names."""
    wanted = set(linears)
    found = {module: names for module, names in stored_modules(naming, shapes).items() if wanted & set(names)}
    return {module: found[module] for module in sorted(found, key=_place)}


def _place(module: str) -> tuple[tuple[int, int], ...]:
    """Sorts as modules of transformers are registered; what is in no layer comes last."""
    if not re.search(r"\.\d+\.", module):
        return ((1, 0),)
    return ((0, 0), *(_rank(part) for part in module.split(".")))


def _rank(part: str) -> tuple[int, int]:
    if part.isdigit():
        return 0, int(part)
    for table in (_BLOCKS, _PARTS, _LINEARS):
        if part in table:
            return 1, table.index(part)
    return 2, 0
