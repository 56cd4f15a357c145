"""A GGUF file as a model: its metadata under the keys of Hugging Face configs, its tensors by name."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from mistralrs_onnx.graphs.weights import DENSE, Matrix
from mistralrs_onnx.ops.formats import Bytes, Float32, is_packed

from .archs import find_arch, find_gguf
from .archs.arch import Arch
from .checkpoints.ggml_file import GGMLFile
from .checkpoints.gguf import GGUF, GGUFTensor
from .config import Config
from .errors import CompileError
from .naming import Shape
from .views import expert_part

CONFIG_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "rotary_dim": "rope.dimension_count",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
    "sliding_window": "attention.sliding_window",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
SCALING_KEYS = {
    "factor": "factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}
FREQUENCIES = "rope_freqs.weight"
EXPERT_KEYS = ("num_local_experts", "num_experts")  # both are in use


def find_architecture(gguf: GGUF, override: str | None) -> Arch:
    """The one that the file names, or that the user says it is."""
    if override is not None:
        return find_arch(override)
    name = gguf.metadata.string("general.architecture")
    return find_gguf(name, gguf.metadata.integer(f"{name}.expert_count", 0))


def read_config(gguf: GGUF, arch: Arch) -> Config:
    """The keys of a Hugging Face config. Raises CompileError for what no architecture computes."""
    prefix = gguf.metadata.string("general.architecture")
    names = CONFIG_KEYS | dict(arch.gguf_config)
    values = {key: _number(gguf.metadata.get(f"{prefix}.{name}")) for key, name in names.items()}
    values |= dict.fromkeys(EXPERT_KEYS, _number(gguf.metadata.get(f"{prefix}.expert_count")))
    for key in ("num_key_value_heads", "sliding_window"):
        if not np.any(values[key]):  # files of Phi-4 have a window of 0
            del values[key]
    if arch.name == "gpt_oss" and values["moe_intermediate_size"] is not None:
        values["intermediate_size"] = values["moe_intermediate_size"]
    values |= {"vocab_size": _shape(gguf, "token_embd.weight")[0], "model_type": arch.name}
    values |= {"architectures": list(arch.hf)} | _rope(gguf, prefix)
    return Config(dict(arch.gguf_defaults) | {key: value for key, value in values.items() if value is not None})


def _number(value: Any) -> Any:
    """Counts of each layer are one number when they are all equal."""
    if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
        return value[0].item()
    return value


def _rope(gguf: GGUF, prefix: str) -> dict[str, Any]:
    factors = {"rope_factors": _vector(gguf, FREQUENCIES).tolist()} if FREQUENCIES in gguf.tensors else {}
    scaling = _scaling(gguf, prefix)
    return factors | ({"rope_scaling": scaling} if scaling else {})


def _scaling(gguf: GGUF, prefix: str) -> dict[str, Any]:
    metadata = gguf.metadata
    original = metadata.get(f"{prefix}.rope.scaling.original_context_length")
    if "rope_factors_long.weight" in gguf.tensors:
        names = ("short", "long")
        factors = {f"{name}_factor": _vector(gguf, f"rope_factors_{name}.weight").tolist() for name in names}
        scale = metadata.get(f"{prefix}.rope.scaling.attn_factor")
        return {
            "rope_type": "longrope",
            "original_max_position_embeddings": original,
            "attention_factor": scale,
        } | factors
    kind = metadata.string(f"{prefix}.rope.scaling.type", "none")
    if kind == "none":
        return {}
    scaling = {key: metadata.get(f"{prefix}.rope.scaling.{name}") for key, name in SCALING_KEYS.items()}
    return scaling | {"rope_type": kind, "original_max_position_embeddings": original}


def _shape(gguf: GGUF, name: str) -> Shape:
    """Raises CompileError when there is no such tensor."""
    if name not in gguf.tensors:
        raise CompileError(f"the file has no tensor {name}: it is damaged or not a language model")
    return gguf.tensors[name].shape


def _vector(gguf: GGUF, name: str) -> Float32:
    _shape(gguf, name)
    return GGUFStored(gguf).vector(name)


@dataclass(frozen=True, slots=True)
class GGUFMatrix:
    """Rows of one tensor, read from the file as they are asked for. Axes before the last are taken as one."""

    gguf: GGUF | GGMLFile
    tensor: GGUFTensor

    @property
    def format(self) -> str:
        return self.tensor.type

    @property
    def shape(self) -> tuple[int, int]:
        return prod(self.tensor.shape[:-1]), self.tensor.shape[-1]

    def rows(self, start: int, stop: int) -> Bytes:
        width = self.tensor.nbytes // self.shape[0]
        return self.gguf.read(self.tensor, start * width, (stop - start) * width).reshape(stop - start, width)


class GGUFStored:
    """The tensors of a file (`compiler.canonical.Stored`)."""

    def __init__(self, gguf: GGUF | GGMLFile) -> None:
        self._gguf = gguf
        self.shapes = {name: tensor.shape for name, tensor in gguf.tensors.items()}

    def type(self, name: str) -> str:
        return self._gguf.tensors[name].type

    def matrix(self, name: str, expert: int | None = None) -> Matrix:
        tensor = self._gguf.tensors[name]
        if tensor.type not in DENSE and not is_packed(tensor.type):
            raise CompileError(f"tensor {name} has type {tensor.type}, which is not supported: convert the file again")
        matrix = GGUFMatrix(self._gguf, tensor)
        return matrix if expert is None else expert_part(matrix, tensor.shape[0], expert)

    def vector(self, name: str, expert: int | None = None) -> Float32:
        tensor = self._gguf.tensors[name]
        if tensor.type not in DENSE:
            raise CompileError(f"tensor {name} has type {tensor.type}, supported here: {', '.join(DENSE)}")
        width = tensor.nbytes // (tensor.shape[0] if expert is not None else 1)
        return self._gguf.read(tensor, (expert or 0) * width, width).view(DENSE[tensor.type]).astype(np.float32)
