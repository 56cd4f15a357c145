"""A folder as Hugging Face lays it out as a model: config.json normalised, safetensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mistralrs_onnx.graphs.weights import DENSE, Matrix
from mistralrs_onnx.ops.formats import Float32

from .archs import find_arch, find_hf
from .archs.arch import Arch
from .checkpoints.safetensors import Safetensors
from .config import Config
from .dense import SafeMatrix
from .errors import CompileError
from .naming import Shape
from .quantized_layers import Quantization, read_quantization
from .tokenizer.json_files import read_object
from .views import expert_part

# What quantized layers keep instead of a weight.
PARTS = (
    *(".qweight", ".qzeros", ".scales", ".g_idx"),
    *(".weight_scale", ".weight_scale_inv", ".input_scale"),
    *("_blocks", "_scales"),
)
ENDINGS = (".weight", ".qweight", "_blocks")


def read_hf_config(folder: Path) -> Config:
    """config.json, with the text model's part of it on top and rotary positions under their older keys."""
    values = read_object(folder / "config.json")
    text = values.get("text_config")
    if isinstance(text, dict):
        values = {key: value for key, value in values.items() if key != "text_config"} | text
    return Config(values | _rope(values))


def find_architecture(config: Config, override: str | None) -> Arch:
    if override is not None:
        return find_arch(override)
    names = config.values.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CompileError(f"config key architectures must name one, got {names!r}: say which with --arch")
    return find_hf(names[0])


def _rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Newer configs gather what concerns positions in `rope_parameters`, some by type of layer.

    Raises CompileError where they or one of these are no object.
    """
    key = "rope_parameters"
    found = Config(values).part(key).values
    members = Config({f"{key}.{kind}": value for kind, value in found.items()})
    whole, local = (members.part(f"{key}.{kind}").values for kind in ("full_attention", "sliding_attention"))
    if not whole:
        return _older(found)
    theirs = local.get("rope_theta")
    return _older(whole) | ({} if theirs is None else {"rope_local_base_freq": theirs})


def _older(parameters: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: parameters[key] for key in ("rope_theta", "partial_rotary_factor") if key in parameters}
    return kept | ({} if parameters.get("rope_type", "default") == "default" else {"rope_scaling": parameters})


class SafeStored:
    """The tensors of a checkpoint (`compiler.canonical.Stored`); quantized layers appear as their weight."""

    def __init__(self, file: Safetensors, config: Config) -> None:
        self._file = file
        self._quantized = _find_quantized(file, read_quantization(config.values.get("quantization_config")))
        stored = {name: tensor.shape for name, tensor in file.tensors.items()}
        if self._quantized:
            stored = {name: shape for name, shape in stored.items() if not name.endswith(PARTS)}
        self.shapes = stored | {name: self._quantized_shape(name) for name in self._quantized}

    def type(self, name: str) -> str:
        return self._quantized[name].format if name in self._quantized else self._file[name].dtype

    def matrix(self, name: str, expert: int | None = None) -> Matrix:
        matrix = self._quantized[name] if name in self._quantized else SafeMatrix(self._file, self._file[name])
        return matrix if expert is None else expert_part(matrix, self.shapes[name][0], expert)

    def vector(self, name: str, expert: int | None = None) -> Float32:
        tensor = self._file[name]
        if tensor.dtype not in DENSE:
            raise CompileError(f"tensor {name} has type {tensor.dtype}, supported here: {', '.join(DENSE)}")
        width = tensor.nbytes // (tensor.shape[0] if expert is not None else 1)
        return self._file.read(tensor, (expert or 0) * width, width).view(DENSE[tensor.dtype]).astype(np.float32)

    def _quantized_shape(self, name: str) -> Shape:
        """Of the experts in one tensor, too."""
        rows, columns = self._quantized[name].shape
        blocks = self._file.tensors.get(f"{name}_blocks")
        return (rows, columns) if blocks is None else (blocks.shape[0], rows // blocks.shape[0], columns)


def _find_quantized(file: Safetensors, quantization: Quantization | None) -> dict[str, Matrix]:
    """Weights by the names that they would have, if they were dense."""
    found: dict[str, Matrix] = {}
    for name in file.tensors if quantization is not None else ():
        ending = next((each for each in ENDINGS if name.endswith(each)), None)
        prefix = name.removesuffix(ending or "")
        if ending is not None and quantization is not None and quantization.applies(file, prefix):
            found[prefix if ending == "_blocks" else f"{prefix}.weight"] = quantization.matrix(file, prefix)
    return found
