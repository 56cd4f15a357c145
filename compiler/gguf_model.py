"""A GGUF file as a model: its metadata under config keys, its tensors under canonical names in canonical order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs.emit import DENSE
from mistralrs_onnx.graphs.weights import Matrix
from mistralrs_onnx.ops.formats import FORMATS, Bytes, Float32

from .archs.arch import Arch
from .checkpoints.gguf import GGUF, GGUFTensor
from .config import Config
from .errors import CompileError

CONFIG_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}


def read_config(gguf: GGUF, arch: Arch) -> Config:
    """The keys of a Hugging Face config. Raises CompileError for what this architecture does not compute."""
    prefix = gguf.metadata["general.architecture"]
    found = {key: gguf.metadata.get(f"{prefix}.{name}") for key, name in CONFIG_KEYS.items()}
    values = {key: value for key, value in found.items() if value is not None}
    table = _tensor(gguf, "token_embd.weight")
    config = Config(values | {"vocab_size": table.shape[0], "model_type": arch.name, "architectures": list(arch.hf)})
    _refuse_unknown_rope(gguf.metadata, str(prefix), config)
    return config


def _refuse_unknown_rope(metadata: Mapping[str, Any], prefix: str, config: Config) -> None:
    scaling = metadata.get(f"{prefix}.rope.scaling.type", "none")
    if scaling != "none":
        raise CompileError(f"{prefix}.rope.scaling.type is {scaling!r}: RoPE scaling is not supported yet, only 'none'")
    head_size = config.size("head_dim", config.size("hidden_size") // config.size("num_attention_heads"))
    rotary = metadata.get(f"{prefix}.rope.dimension_count", head_size)
    if rotary != head_size:
        raise CompileError(
            f"{prefix}.rope.dimension_count is {rotary}: partial rotary of heads of {head_size} is not supported yet"
        )


@dataclass(frozen=True, slots=True)
class GGUFMatrix:
    """Rows of one tensor, read from the file as they are asked for."""

    gguf: GGUF
    tensor: GGUFTensor

    @property
    def format(self) -> str:
        return self.tensor.type

    @property
    def shape(self) -> tuple[int, int]:
        return self.tensor.shape[0], self.tensor.shape[1]

    def rows(self, start: int, stop: int) -> Bytes:
        width = self.tensor.nbytes // self.tensor.shape[0]
        return self.gguf.read(self.tensor, start * width, (stop - start) * width).reshape(stop - start, width)


@dataclass(frozen=True, slots=True)
class Reordered:
    """A matrix whose row i is row `order[i]` of another."""

    matrix: Matrix
    order: NDArray[np.intp]

    @property
    def format(self) -> str:
        return self.matrix.format

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def rows(self, start: int, stop: int) -> Bytes:
        order = self.order[start:stop]
        first = int(order.min())
        return self.matrix.rows(first, int(order.max()) + 1)[order - first]


def halves_order(num_rows: int, head_size: int) -> NDArray[np.intp]:
    """Where row i of a head, first halves then second halves, lies when pairs are adjacent."""
    return np.arange(num_rows).reshape(-1, head_size // 2, 2).swapaxes(1, 2).reshape(-1)


class GGUFWeights:
    """The tensors of a file under canonical names (`model.layers.0.mlp.up_proj.weight`)."""

    def __init__(self, gguf: GGUF, arch: Arch, config: Config) -> None:
        self._gguf = gguf
        self._permuted = arch.permuted
        self._head_size = config.size("head_dim", config.size("hidden_size") // config.size("num_attention_heads"))
        self._tensors = _canonical(gguf, arch, config.size("num_hidden_layers"))

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def matrix(self, name: str) -> Matrix:
        matrix = GGUFMatrix(self._gguf, self._tensors[name])
        if name.removesuffix(".weight").endswith(self._permuted):
            return Reordered(matrix, halves_order(matrix.shape[0], self._head_size))
        return matrix

    def vector(self, name: str) -> Float32:
        tensor = self._tensors[name]
        return self._gguf.read(tensor, 0, tensor.nbytes).view(DENSE[tensor.type]).astype(np.float32)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises CompileError unless exactly these weights are there, in these shapes and in types we know."""
        for name, shape in shapes.items():
            tensor = self._tensors.get(f"{name}.weight")
            if tensor is None:
                raise CompileError(f"the checkpoint has no tensor for {name}: it is damaged or of another architecture")
            if tensor.shape != shape:
                raise CompileError(f"tensor {tensor.name} has shape {tensor.shape}, {name} needs {shape}")
            _check_type(tensor)
        for name, tensor in self._tensors.items():
            if name.removesuffix(".weight") not in shapes:
                raise CompileError(f"tensor {tensor.name} is not part of this architecture: the result would be wrong")


def _canonical(gguf: GGUF, arch: Arch, num_layers: int) -> dict[str, GGUFTensor]:
    theirs = {
        f"{name.format(i=i)}.weight": f"{stored.format(i=i)}.weight"
        for name, stored in arch.gguf_tensors.items()
        for i in range(num_layers if "{i}" in name else 1)
    }
    ours = {stored: name for name, stored in theirs.items()}
    return {ours.get(name, name): tensor for name, tensor in gguf.tensors.items()}


def _check_type(tensor: GGUFTensor) -> None:
    known = DENSE if len(tensor.shape) == 1 else [*DENSE, *FORMATS]
    if tensor.type not in known:
        raise CompileError(f"tensor {tensor.name} has type {tensor.type}, supported here: {', '.join(known)}")


def _tensor(gguf: GGUF, name: str) -> GGUFTensor:
    if name not in gguf.tensors:
        raise CompileError(f"the file has no tensor {name}: it is damaged or not a language model")
    return gguf.tensors[name]
