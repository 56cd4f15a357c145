"""The weights of an X-LoRA classifier: brought to canonical names, and checked before they are read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mistralrs_onnx.compiler.checkpoints.safetensors import SafeTensor, Safetensors, read_safetensors
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.classifier import CLASSIFIER, Classifier
from mistralrs_onnx.graphs.weights import DENSE
from mistralrs_onnx.ops.formats import Float32

from .files import WEIGHTS
from .xlora_config import Layout

logger = logging.getLogger(__name__)

MAX_NAME = 512
LAST = 1 << 30  # comes after every number

# The training code numbers ReLU and Dropout too: linears are inner.0, inner.3, ... where it has them.
_PEFT = r"(?:base_model\.(?:model\.)?)?internal_xlora_classifier\.layers"
_NAMES: dict[Layout, re.Pattern[str]] = {
    "xlora": re.compile(r"(?:inner\.(?P<number>\d{1,4})|last)\.(?P<kind>weight|bias)"),
    "peft": re.compile(rf"{_PEFT}\.(?P<number>\d{{1,4}})\.(?P<kind>weight|bias)"),
}
_MOVED = re.compile(rf"{_PEFT}\.(?P<kind>weight|bias)")


class Stored(NamedTuple):
    """A tensor and the file that it lies in."""

    file: Safetensors
    tensor: SafeTensor


Linears = dict[int, dict[str, Stored]]  # by number, then weight or bias


def read_classifier(path: Path, spec: Classifier, layout: Layout) -> dict[str, Float32]:
    """By canonical name, as `spec.shapes` has them. Raises CompileError, which names the tensor."""
    with ExitStack() as stack:
        file = stack.enter_context(read_safetensors(path))
        try:
            linears = _linears(file, layout)
            if layout == "peft":
                _add_moved(linears, path.parent, spec, stack)
            stored = _canonical(linears, spec)
            _check(stored, spec)
            return {name: _read(stored[name]) for name in spec.shapes()}
        except CompileError as error:
            raise error if str(error).startswith(str(path)) else CompileError(f"{path}: {error}") from error


def _linears(file: Safetensors, layout: Layout) -> Linears:
    found: Linears = {}
    for name, tensor in file.tensors.items():
        match = _NAMES[layout].fullmatch(name[:MAX_NAME])
        if match is None:
            known = (
                "inner.0.weight and last.weight" if layout == "xlora" else "internal_xlora_classifier.layers.0.weight"
            )
            raise CompileError(f"tensor {name[:MAX_NAME]} is not of an X-LoRA classifier, whose names are like {known}")
        number = LAST if match["number"] is None else int(match["number"])
        other = found.setdefault(number, {}).setdefault(match["kind"], Stored(file, tensor))
        if other.tensor is not tensor:
            raise CompileError(f"tensors {other.tensor.name} and {name} are the same: which is not clear")
    return found


def _add_moved(linears: Linears, folder: Path, spec: Classifier, stack: ExitStack) -> None:
    """PEFT calls adapters 0, 1, ..., and takes `layers.0` for a tensor of adapter 0, which it saves in that folder."""
    for number in range(spec.num_adapters):
        path = folder / str(number) / WEIGHTS
        if number in linears or len(linears) == spec.depth or not path.is_file():
            continue
        file = stack.enter_context(read_safetensors(path))
        moved = {match["kind"]: name for name in file.tensors if (match := _MOVED.fullmatch(name[:MAX_NAME]))}
        if moved:
            logger.warning("layer %d of the X-LoRA classifier is read from %s, where PEFT put it", number, path)
            linears[number] = {kind: Stored(file, file.tensors[name]) for kind, name in moved.items()}


def _canonical(linears: Linears, spec: Classifier) -> dict[str, Stored]:
    if len(linears) != spec.depth:
        names = ", ".join(next(iter(linears[number].values())).tensor.name for number in sorted(linears)) or "none"
        raise CompileError(
            f"an X-LoRA classifier of xlora_depth {spec.depth} has as many linear layers, got {len(linears)} ({names}):"
            " the file is incomplete, or the config is of another"
        )
    ordered = [linears[number] for number in sorted(linears)]
    return {f"{CLASSIFIER}.{i}.{kind}": each for i, kinds in enumerate(ordered) for kind, each in kinds.items()}


def _check(stored: Mapping[str, Stored], spec: Classifier) -> None:
    wanted = spec.shapes()
    for name, each in stored.items():
        if name not in wanted:
            raise CompileError(f"tensor {each.tensor.name} is a bias, and use_bias of the config is false")
    for name, shape in wanted.items():
        if name not in stored:
            raise CompileError(f"the {_what(name)} is missing{_beside(name, stored.items())}: the file is incomplete")
        _check_tensor(stored[name].tensor, shape, spec)


def _what(name: str) -> str:
    number, kind = name.removeprefix(f"{CLASSIFIER}.").split(".")
    return f"{kind} of linear layer {number} of the X-LoRA classifier"


def _beside(name: str, stored: Iterable[tuple[str, Stored]]) -> str:
    front = name.rpartition(".")[0]
    there = next((each.tensor.name for other, each in stored if other.startswith(f"{front}.")), None)
    return "" if there is None else f" beside {there} (use_bias is true)"


def _check_tensor(tensor: SafeTensor, wanted: tuple[int, ...], spec: Classifier) -> None:
    if tensor.dtype not in DENSE:
        raise CompileError(f"tensor {tensor.name} has type {tensor.dtype}, supported here: {', '.join(DENSE)}")
    if tensor.shape != wanted:
        raise CompileError(
            f"tensor {tensor.name} has shape {tensor.shape}, needed is {wanted}: hidden_size is {spec.hidden_size},"
            f" xlora_size {spec.size}, and there are {spec.num_adapters} adapters and {spec.num_layers} sets of"
            " scalings (one for each adapted layer if layerwise_scalings is true)"
        )


def _read(stored: Stored) -> Float32:
    file, tensor = stored
    raw = file.read(tensor, 0, tensor.nbytes).view(DENSE[tensor.dtype])
    values: Float32 = raw.astype(np.float32).reshape(tensor.shape)
    is_bad = ~np.isfinite(values)
    if is_bad.any():
        raise CompileError(f"tensor {tensor.name} holds {values[is_bad][0]}: the classifier is damaged")
    return values
