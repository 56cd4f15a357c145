"""Reads a LoRA adapter from the folder that PEFT saved, and checks all of it against the base before it is used."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mistralrs_onnx.compiler.archs.arch import Arch
from mistralrs_onnx.compiler.checkpoints.safetensors import SafeTensor, Safetensors, read_safetensors
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Naming, Shape
from mistralrs_onnx.graphs.contract import Update, Updates
from mistralrs_onnx.graphs.weights import DENSE
from mistralrs_onnx.ops.formats import Float32

from .config import AdapterConfig, read_config
from .experts import expert_parameters, parameter_of
from .files import CONFIG, AdapterFiles, confine, in_folder
from .modules import EMBEDDING, HEAD, Module, find_modules, stored_modules

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


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """What an adapter may have at most; `num_bytes`: of its matrices in float32."""

    rank: int = 256
    num_bytes: int = 2 << 30
    num_tensors: int = 1 << 16


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in the common form.

    `rank`: the largest. `num_bytes`: of all matrices in float32. `generation`: sha256, in hex, of names and bytes:
    equal for equal adapters, whatever they are called.
    """

    name: str
    base_model: str | None
    updates: Updates
    rank: int
    num_bytes: int
    generation: str


class Pair(NamedTuple):
    """A and B of a module as they lie in the file: (rank, K) and (N, rank)."""

    a: SafeTensor
    b: SafeTensor


def read_adapter(
    folder: Path,
    arch: Arch,
    shapes: Mapping[str, Shape],
    limits: AdapterLimits = AdapterLimits(),
    *,
    name: str | None = None,
    root: Path | None = None,
) -> Adapter:
    """Reads adapter_config.json and adapter_model.safetensors. `shapes`: of the base's weights by canonical name.

    `name`: else that of the folder. `root`: where given, a folder that the files must not lie outside of, whatever
    links say. Raises CompileError, which names the tensor, for whatever would not compute as it was trained.
    """
    confine(folder, root)
    return read_files(in_folder(folder, name), arch, shapes, limits, root=root)


def read_files(
    files: AdapterFiles,
    arch: Arch,
    shapes: Mapping[str, Shape],
    limits: AdapterLimits = AdapterLimits(),
    *,
    root: Path | None = None,
) -> Adapter:
    """As `read_adapter`, from files that lie anywhere."""
    for each in (files.config, files.weights):
        confine(each, root)
    config, path = read_config(files.config), files.weights
    with read_safetensors(path) as file:
        try:
            updates = _checked_updates(file, config, arch.hf_naming, shapes, limits)
        except CompileError as error:
            raise error if str(error).startswith(str(path)) else CompileError(f"{path}: {error}") from error
    return Adapter(
        name=files.name,
        base_model=config.base_model,
        updates=updates,
        rank=max(len(update.a) for update in updates.values()),
        num_bytes=sum(update.a.nbytes + update.b.nbytes for update in updates.values()),
        generation=generation_of(updates),
    )


def _checked_updates(
    file: Safetensors, config: AdapterConfig, naming: Naming, shapes: Mapping[str, Shape], limits: AdapterLimits
) -> dict[str, Update]:
    parameters = expert_parameters(naming, shapes)
    pairs = _of_parameters(_pairs(_without_tables(file.tensors, shapes), limits), parameters)
    modules = find_modules([name for name in pairs if name not in parameters], naming, shapes)
    modules |= {name: parameters[name] for name in pairs if name in parameters}
    _check_config(pairs, config, naming, shapes, parameters)
    for module in modules.values():
        _check_shapes(module, pairs[module.name], config.rank(_known_as(module.name, config)), limits)
    return _updates(file, modules.values(), pairs, config)


def _of_parameters(pairs: Mapping[str, Pair], parameters: Mapping[str, Module]) -> dict[str, Pair]:
    """Under the names of parameters, where modules are containers of experts."""
    found: dict[str, Pair] = {}
    for module, pair in pairs.items():
        shape = (pair.b.shape or (0,))[0], (pair.a.shape or (0,))[-1]
        name = parameter_of(module, shape, parameters)
        if name in found:
            raise CompileError(f"tensors {found[name].a.name} and {pair.a.name} are both of {name}: which is not clear")
        found[name] = pair
    return found


def generation_of(updates: Updates) -> str:
    digest = hashlib.sha256()
    for name, (a, b) in sorted(updates.items()):
        digest.update(f"{name} {a.shape} {b.shape}\n".encode())
        digest.update(np.ascontiguousarray(a).data)
        digest.update(np.ascontiguousarray(b).data)
    return digest.hexdigest()


def _without_tables(tensors: Mapping[str, SafeTensor], shapes: Mapping[str, Shape]) -> dict[str, SafeTensor]:
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


def _pairs(tensors: Mapping[str, SafeTensor], limits: AdapterLimits) -> dict[str, Pair]:
    """By module. What is said in the header is checked here, before any data is read."""
    if not 0 < len(tensors) <= limits.num_tensors:
        raise CompileError(f"an adapter has 1 to {limits.num_tensors} tensors, got {len(tensors)}")
    num_bytes = sum(4 * tensor.nbytes // max(1, _itemsize(tensor)) for tensor in tensors.values())
    if num_bytes > limits.num_bytes:
        raise CompileError(f"the adapter takes {num_bytes} bytes in float32, at most {limits.num_bytes} are allowed")
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


def _itemsize(tensor: SafeTensor) -> int:
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


def _known_as(module: str, config: AdapterConfig) -> str:
    """The name that patterns of ranks are for: that of the parameter, where it is targeted and not its module."""
    return f"{module}.weight" if config.adapts_parameter(f"{module}.weight") else module


def _check_config(
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
    for name in parameters.keys() - pairs.keys():
        if config.adapts_parameter(name):
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


def _check_shapes(module: Module, pair: Pair, rank: int, limits: AdapterLimits) -> None:
    if rank > limits.rank:
        raise CompileError(f"tensor {pair.a.name} has rank {rank}, at most {limits.rank} is allowed")
    num_rows, num_columns = module.shape
    width = rank * module.num_experts
    for tensor, wanted in ((pair.a, (width, num_columns)), (pair.b, (num_rows, width))):
        if tensor.shape != wanted:
            raise CompileError(
                f"tensor {tensor.name} has shape {tensor.shape}, needed is {wanted} for rank {rank} and the base's"
                f" {num_columns} inputs and {num_rows} outputs: the adapter is of another base or config"
            )


def _updates(
    file: Safetensors, modules: Iterable[Module], pairs: Mapping[str, Pair], config: AdapterConfig
) -> dict[str, Update]:
    updates: dict[str, Update] = {}
    for module in modules:
        pair, scale = pairs[module.name], np.float32(config.scale(_known_as(module.name, config)))
        a, b = _read(file, pair.a), _read(file, pair.b)
        with np.errstate(over="ignore"):
            b = b * scale
        _check_finite(b, pair.b.name, f" once it is multiplied by the scale {scale:g}")
        of_experts = a.reshape(module.num_experts, -1, a.shape[1]), b.reshape(len(b), -1, module.num_experts)
        for name, rows, expert in module.members:
            if name in updates:
                raise CompileError(f"tensors {pair.a.name} and others are both of {name}: which is not clear")
            updates[name] = Update(of_experts[0][expert], np.ascontiguousarray(of_experts[1][rows, :, expert]))
    return updates


def _read(file: Safetensors, tensor: SafeTensor) -> Float32:
    stored = file.read(tensor, 0, tensor.nbytes).view(DENSE[tensor.dtype])
    values: Float32 = stored.astype(np.float32).reshape(tensor.shape)
    _check_finite(values, tensor.name, "")
    return values


def _check_finite(values: Float32, name: str, when: str) -> None:
    is_bad = ~np.isfinite(values)
    if is_bad.any():
        raise CompileError(f"tensor {name} holds {values[is_bad][0]}{when}: the adapter is damaged")
