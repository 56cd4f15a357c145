"""Reads X-LoRA: adapters, and a classifier that says for each token how much of each it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import NamedTuple, Protocol

import numpy as np

from mistralrs_onnx.compiler.archs.arch import Arch
from mistralrs_onnx.compiler.checkpoints.safetensors import read_safetensors
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Shape
from mistralrs_onnx.graphs.classifier import Classifier
from mistralrs_onnx.graphs.xlora import XLora as DrawnXLora
from mistralrs_onnx.ops.formats import Float32

from .files import CONFIG, WEIGHTS, AdapterFiles, confine, find_adapters, in_folder
from .merge import weighted
from .modules import EMBEDDING
from .ordering import Ordering, check_identity, read_ordering
from .peft import Adapter, AdapterLimits, generation_of, read_files
from .xlora_config import XLoraConfig, read_xlora_config
from .xlora_layers import number_layers
from .xlora_tensors import read_classifier

XLORA_CONFIG, XLORA_CLASSIFIER = "xlora_config.json", "xlora_classifier.safetensors"

LIMITS = AdapterLimits()
_BASE_TOO = "base_model.lora_model."


@dataclass(frozen=True, slots=True)
class XLora:
    """`weights`: of the classifier, by canonical name.

    `adapters`: in the order of training, global_scaling_weight included in b. `layers`: which set of scalings, of
    `classifier.num_layers`, each adapted linear takes, by canonical name. `scaling_pass`: what stands in for the
    scalings of each adapter in the pass that makes the hidden states for the classifier.
    """

    config: XLoraConfig
    classifier: Classifier
    weights: Mapping[str, Float32]
    adapters: tuple[Adapter, ...]
    layers: Mapping[str, int]
    scaling_pass: tuple[float, ...]

    @property
    def drawn(self) -> DrawnXLora:
        """What the graph needs of it."""
        updates = tuple(adapter.updates for adapter in self.adapters)
        return DrawnXLora(self.classifier, self.weights, updates, self.layers)


class XLoraSource(Protocol):
    """Where an X-LoRA comes from."""

    def read(self, arch: Arch, shapes: Mapping[str, Shape]) -> XLora:
        """`shapes`: of the base's weights by canonical name. Raises CompileError."""


@dataclass(frozen=True, slots=True)
class ToMix:
    """Where an X-LoRA is: its repository, the ordering file, and the base model as the user spells it.

    `adapters`: folders of adapters that are not in the repository, by name.
    """

    folder: Path
    ordering: Path | None = None
    base: str | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)

    def read(self, arch: Arch, shapes: Mapping[str, Shape]) -> XLora:
        """Raises CompileError as `read_xlora` does, and for adapters of what is no layer."""
        ordering = None if self.ordering is None else read_ordering(self.ordering)
        xlora = read_xlora(self.folder, arch, shapes, ordering, base=self.base, adapters=self.adapters)
        for linear in xlora.layers:
            if not linear.startswith("model.layers."):
                raise CompileError(f"{self.folder} adapts {linear}: X-LoRA is computed in the layers only")
        return xlora


class XLoraFiles(NamedTuple):
    """The config as JSON and the classifier as safetensors."""

    config: Path
    classifier: Path


def read_xlora(
    folder: Path,
    arch: Arch,
    shapes: Mapping[str, Shape],
    ordering: Ordering | None = None,
    *,
    base: str | None = None,
    adapters: Mapping[str, Path] | None = None,
    limits: AdapterLimits = LIMITS,
    root: Path | None = None,
) -> XLora:
    """Reads a repository of the training code, with xlora_config.json, or the folder that PEFT saves.

    `shapes`: of the base's weights by canonical name. `ordering`: names and order of the adapters and the number of
    each layer; else the config's, and PEFT's numbers. `base`: the base model as the user spells it, checked where there
    is an ordering file. `adapters`: folders of adapters that are not in `folder`, by name. `root`: where given, a
    folder that no file may lie outside of. Raises CompileError, which names the tensor or the key.
    """
    files = find_xlora(folder)
    for each in files:
        confine(each, root)
    config = read_xlora_config(files.config)
    if ordering is not None:
        check_identity(ordering, base, config.base_model_id if config.layout == "xlora" else None)
    names = _names(config, ordering, files.config)
    for name in (adapters or {}).keys() - set(names):
        raise CompileError(f"{folder} mixes no adapter {name}: it mixes {', '.join(names)}")
    _check_config(config, files.config, len(names), shapes[EMBEDDING][1])
    found = [_adapter_files(folder, name, config.adapters.get(name, ""), adapters or {}) for name in names]
    for one in found:
        _check_own(one)
    read = _weighted([read_files(each, arch, shapes, limits, root=root) for each in found], config)
    numbers, num_layers = number_layers(ordering, arch, shapes, read[0].updates)
    if not config.layerwise_scalings:
        numbers, num_layers = dict.fromkeys(numbers, 0), 1
    classifier = _classifier(config, len(names), num_layers)
    weights = read_classifier(files.classifier, classifier, config.layout)
    return XLora(config, classifier, weights, read, numbers, scaling_pass(config, len(names)))


def find_xlora(folder: Path) -> XLoraFiles:
    """Raises CompileError where files are missing, or are there more than once."""
    if not folder.is_dir():
        raise CompileError(f"{folder}: no such folder")
    config = _find(folder, XLORA_CONFIG)
    if config is not None:
        classifier = _find(folder, XLORA_CLASSIFIER)
        if classifier is None:
            raise CompileError(f"{folder} has {XLORA_CONFIG} and no {XLORA_CLASSIFIER}: its classifier is missing")
        return XLoraFiles(config, classifier)
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        return XLoraFiles(folder / CONFIG, folder / WEIGHTS)
    raise CompileError(
        f"{folder} is no X-LoRA: needed are {XLORA_CONFIG} and {XLORA_CLASSIFIER}, or {CONFIG} and {WEIGHTS} of PEFT's"
    )


def _find(folder: Path, name: str) -> Path | None:
    """The one at the top, else the only one below."""
    if (folder / name).is_file():
        return folder / name
    found = sorted(path for path in folder.rglob(f"*{name}") if not _is_hidden(path.relative_to(folder)))
    if len(found) > 1:
        several = ", ".join(str(path.relative_to(folder)) for path in found[:5])
        raise CompileError(f"{folder} has several files {name}: {several}: keep one of them")
    return found[0] if found else None


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _names(config: XLoraConfig, ordering: Ordering | None, path: Path) -> tuple[str, ...]:
    names = tuple(config.adapters) if ordering is None or ordering.order is None else ordering.order
    if not names:
        raise CompileError(f"{path}: which adapters there are is said neither by adapters nor by an ordering file")
    return names


def _check_config(config: XLoraConfig, path: Path, num_adapters: int, hidden_size: int) -> None:
    if config.hidden_size != hidden_size:
        raise CompileError(
            f"{path}: hidden_size is {config.hidden_size}, the base's is {hidden_size}: the classifier is of another"
        )
    if config.top_k_lora is not None and config.top_k_lora > num_adapters:
        raise CompileError(
            f"{path}: top_k_lora must be at most the number of adapters, {num_adapters}, got {config.top_k_lora}"
        )


def _adapter_files(folder: Path, name: str, path: str, given: Mapping[str, Path]) -> AdapterFiles:
    """Of a path in the config only the last part counts: it is one of where the adapter was trained."""
    if name in given:
        return in_folder(given[name], name)
    last = PurePath(path.replace("\\", "/")).name
    if last and (folder / last / CONFIG).is_file():
        return in_folder(folder / last, name)
    return find_adapters(folder, (name,))[0]


def _check_own(files: AdapterFiles) -> None:
    """PEFT calls adapters of an X-LoRA 0, 1, ..., and saves folders of these names in which they are not whole."""
    with read_safetensors(files.weights) as file:
        if any(name.startswith(_BASE_TOO) for name in file.tensors):
            raise CompileError(
                f"{files.weights} is no adapter, but what PEFT saves of base, adapter and classifier together: give the"
                f" folder that adapter {files.name} was in when the X-LoRA was trained (--adapter {files.name}=PATH)"
            )


def _weighted(adapters: Sequence[Adapter], config: XLoraConfig) -> tuple[Adapter, ...]:
    first = adapters[0]
    for other in adapters[1:]:
        differing = sorted(first.updates.keys() ^ other.updates.keys())
        if differing:
            raise CompileError(
                f"adapters of X-LoRA must adapt the same layers: {differing[0]} is adapted by only one of"
                f" {first.name} and {other.name}"
            )
    if config.global_scaling_weight == 1.0:
        return tuple(adapters)
    return tuple(_times(adapter, config.global_scaling_weight) for adapter in adapters)


def _times(adapter: Adapter, weight: float) -> Adapter:
    updates = weighted(adapter.updates, weight)
    for name, update in updates.items():
        if not np.isfinite(update.b).all():
            raise CompileError(f"global_scaling_weight {weight:g} is too large for {name} of adapter {adapter.name}")
    return replace(adapter, updates=updates, generation=generation_of(updates))


def _classifier(config: XLoraConfig, num_adapters: int, num_layers: int) -> Classifier:
    return Classifier(
        hidden_size=config.hidden_size,
        num_adapters=num_adapters,
        num_layers=num_layers,
        depth=config.xlora_depth,
        size=config.xlora_size,
        bias=config.use_bias,
        relu=config.enable_relu_and_dropout,
        softmax=config.enable_softmax,
        temperature=config.softmax_temperature,
        top_k=config.top_k_lora,
        softmax_topk=config.enable_softmax_topk,
    )


def scaling_pass(config: XLoraConfig, num_adapters: int) -> tuple[float, ...]:
    """scaling_pass_value for each adapter; PEFT sends it through top-k and its softmax as it does scalings.

    Which of equal scalings PEFT's top-k takes is not defined; here it is the first.
    """
    value = config.scaling_pass_value
    if config.layout == "xlora" or value == 0:
        return (value,) * num_adapters
    count = config.top_k_lora or num_adapters
    return (1 / count if config.enable_softmax_topk else value,) * count + (0.0,) * (num_adapters - count)
