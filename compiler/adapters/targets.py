"""Whether an adapter's file has what its config says is adapted, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Naming, Shape

from .config import AdapterConfig
from .files import CONFIG
from .modules import HEAD, Module, stored_modules
from .pairs import Pair


def known_as(module: str, config: AdapterConfig) -> str:
    """The name that patterns of ranks are for: that of the parameter, where it is targeted and not its module."""
    return f"{module}.weight" if config.adapts_parameter(f"{module}.weight") else module


def check_targets(
    pairs: Mapping[str, Pair],
    config: AdapterConfig,
    naming: Naming,
    shapes: Mapping[str, Shape],
    parameters: Mapping[str, Module],
) -> None:
    """What the config says is adapted must be there, and nothing else.

    Experts are exempt unless one like them is there: newer models keep them as parameters, which `all-linear` and
    endings such as `gate` do not mean.
    """
    for module, pair in pairs.items():
        if not (config.adapts_parameter(module) if module in parameters else _adapts(module, config)):
            raise CompileError(f"tensor {pair.a.name} is of a module that {CONFIG} does not name as a target")
    kinds = {_kind(module) for module in pairs}
    for module, names in stored_modules(naming, shapes).items():
        is_optional = _is_sparse(names[0], shapes) and _kind(module) not in kinds
        if module in pairs or is_optional or (f"{module}.weight" == HEAD and HEAD not in shapes):
            continue
        if not set(names) & pairs.keys() and _says_targets(config) and _adapts(module, config):
            raise _missing(module)
    for name in parameters:
        if name not in pairs and config.adapts_parameter(name):
            raise _missing(name)


def _adapts(module: str, config: AdapterConfig) -> bool:
    return config.adapts(module) or config.adapts_parameter(f"{module}.weight")


def _says_targets(config: AdapterConfig) -> bool:
    return config.target_modules is not None or bool(config.target_parameters)


def _missing(name: str) -> CompileError:
    return CompileError(
        f"tensor base_model.model.{name}.lora_A.weight is missing, and {CONFIG} names it as a target: the file is"
        " incomplete"
    )


def _kind(module: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", module)


def _is_sparse(name: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a layer is part of a mixture of experts."""
    block = re.sub(r"\.mlp\..*", ".mlp", name)
    return block != name and f"{block}.gate.weight" in shapes
