"""Reads a LoRA adapter from the folder that PEFT saved, and checks all of it against the base before it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mistralrs_onnx.compiler.archs.arch import Arch
from mistralrs_onnx.compiler.checkpoints.safetensors import SafeTensor, Safetensors, read_safetensors
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Naming, Shape
from mistralrs_onnx.graphs.contract import Update, Updates
from mistralrs_onnx.graphs.weights import DENSE
from mistralrs_onnx.ops.formats import Float32

from .config import AdapterConfig, read_config
from .experts import expert_parameters
from .files import AdapterFiles, confine, in_folder
from .modules import Module, find_modules
from .pairs import Pair, find_pairs, itemsize, of_parameters, without_tables
from .targets import check_targets, known_as


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
    tensors = without_tables(file.tensors, shapes)
    _check_size(tensors, limits)
    parameters = expert_parameters(naming, shapes)
    pairs = of_parameters(find_pairs(tensors), parameters)
    modules = find_modules([name for name in pairs if name not in parameters], naming, shapes)
    modules |= {name: parameters[name] for name in pairs if name in parameters}
    check_targets(pairs, config, naming, shapes, parameters)
    for module in modules.values():
        _check_shapes(module, pairs[module.name], config.rank(known_as(module.name, config)), limits)
    return _updates(file, modules.values(), pairs, config)


def _check_size(tensors: Mapping[str, SafeTensor], limits: AdapterLimits) -> None:
    """From the header, before any data is read."""
    if not 0 < len(tensors) <= limits.num_tensors:
        raise CompileError(f"an adapter has 1 to {limits.num_tensors} tensors, got {len(tensors)}")
    num_bytes = sum(4 * tensor.nbytes // itemsize(tensor) for tensor in tensors.values())
    if num_bytes > limits.num_bytes:
        raise CompileError(f"the adapter takes {num_bytes} bytes in float32, at most {limits.num_bytes} are allowed")


def generation_of(updates: Updates) -> str:
    """sha256, in hex, of names, shapes and values."""
    digest = hashlib.sha256()
    for name, (a, b) in sorted(updates.items()):
        digest.update(f"{name} {a.shape} {b.shape}\n".encode())
        digest.update(np.ascontiguousarray(a).data)
        digest.update(np.ascontiguousarray(b).data)
    return digest.hexdigest()


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
        pair, scale = pairs[module.name], np.float32(config.scale(known_as(module.name, config)))
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
