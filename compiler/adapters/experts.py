"""Experts that are one parameter, as transformers 5 keeps them: which rows of its A and B are whose.

PEFT adapts such a parameter, (E, N, K), with A (E · rank, K), the experts on top of each other, and B (N, rank · E),
whose columns are those of all experts for the first of the rank, then for the second, and so on (ParamWrapper).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Naming, Shape

from .modules import Member, Module, row_slices

PARAMETERS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}

_FIRST = re.compile(r"(?P<container>.*\.experts)\.0\.down_proj\.weight")


def expert_parameters(naming: Naming, shapes: Mapping[str, Shape]) -> dict[str, Module]:
    """By name of the parameter, such as model.layers.0.mlp.experts.gate_up_proj. `shapes`: of canonical weights."""
    return {module.name: module for module in _parameters(naming, shapes)}


def _parameters(naming: Naming, shapes: Mapping[str, Shape]) -> Iterator[Module]:
    for weight in shapes:
        if first := _FIRST.fullmatch(weight):
            container, count = first["container"], 0
            while f"{container}.{count}.down_proj.weight" in shapes:
                count += 1
            for parameter, parts in PARAMETERS.items():
                yield _parameter(container, parameter, parts, count, naming, shapes)


def _parameter(
    container: str, parameter: str, parts: tuple[str, ...], count: int, naming: Naming, shapes: Mapping[str, Shape]
) -> Module:
    each = [shapes[f"{container}.0.{part}.weight"] for part in parts]
    rows = row_slices([shape[0] for shape in each], is_interleaved=parameter in naming.interleaved)
    members = tuple(
        Member(f"{container}.{expert}.{part}", rows[i], expert)
        for expert in range(count)
        for i, part in enumerate(parts)
    )
    return Module(f"{container}.{parameter}", (sum(shape[0] for shape in each), each[0][1]), members, count)


def parameter_of(module: str, shape: tuple[int, int], parameters: Mapping[str, Module]) -> str:
    """The parameter that the A and B of a module are for, or the module itself.

    The parameters of one container are wrapped in turn, and files do not say which is the outer one: `shape`, the rows
    of B and columns of A, does. Raises CompileError where it is neither's.
    """
    container = re.sub(r"(\.base_layer)+$", "", module)
    candidates = [parameters[name] for part in PARAMETERS if (name := f"{container}.{part}") in parameters]
    for each in candidates:
        if each.shape == shape:
            return each.name
    if candidates:
        wanted = " and ".join(f"{each.shape} for {each.name}" for each in candidates)
        raise CompileError(f"{container} has {shape} outputs and inputs in the adapter, the base has {wanted}")
    return module
