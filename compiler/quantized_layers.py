"""Linear layers that others quantized: GPTQ and AWQ, relaid bit for bit into rows of our integer formats.

A stored row is, for each block: the scale, one byte of zero point in formats "-zp", the levels with lowest bits first;
w = (level - zero) · scale. Both methods store K along the first axis, so rows here are columns there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs.weights import DENSE, Matrix
from mistralrs_onnx.ops.formats_block import Bytes, pack

from .checkpoints.safetensors import SafeTensor, Safetensors
from .errors import CompileError
from .float8 import Float8
from .mxfp4 import MXFP4

BLOCKS = (256, 128, 64, 32, 16)
WORD = np.dtype("<u4")
WORD_BITS = 32
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where a word keeps column j of its eight


class Quantization(Protocol):
    """How the linear layers of a checkpoint are quantized."""

    def applies(self, file: Safetensors, prefix: str) -> bool:
        """Whether this layer is: some are left dense."""

    def matrix(self, file: Safetensors, prefix: str) -> Matrix: ...


def read_quantization(config: Mapping[str, Any] | None) -> Quantization | None:
    """`quantization_config` of a Hugging Face config. Raises CompileError for a method that we do not read."""
    if config is None:
        return None
    method = config.get("quant_method")
    if not isinstance(method, str) or method not in READERS:
        near = get_close_matches(str(method), READERS, 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise CompileError(f"quant_method must be one of {', '.join(READERS)}, got {method!r}{hint}")
    return READERS[method](config)


def _read_gptq(config: Mapping[str, Any]) -> Quantization:
    bits, stored = config.get("bits"), config.get("checkpoint_format") or "gptq"
    if bits not in (4, 8):
        raise CompileError(f"GPTQ bits must be 4 or 8, got {bits!r}")
    if stored not in ("gptq", "gptq_v2") or config.get("is_marlin_format"):
        raise CompileError(f"GPTQ checkpoint_format must be gptq or gptq_v2, got {stored!r}: save it in one of them")
    return GPTQ(int(bits), _group_size(config.get("group_size", -1)), zero_offset=int(stored == "gptq"))


def _read_awq(config: Mapping[str, Any]) -> Quantization:
    bits = config.get("bits", config.get("w_bit"))
    version = str(config.get("version", config.get("format", "gemm"))).lower()
    if bits != 4:
        raise CompileError(f"AWQ bits must be 4, got {bits!r}")
    if version != "gemm":
        raise CompileError(f"AWQ version must be gemm, got {version!r}: quantize or save it as gemm")
    return AWQ(_group_size(config.get("group_size", config.get("q_group_size", 128))))


def _read_float8(config: Mapping[str, Any]) -> Quantization:
    block = config.get("weight_block_size")
    if block is None:
        return Float8()
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise CompileError(f"weight_block_size must be two positive integers, got {block!r}")
    return Float8((block[0], block[1]))


def _read_mxfp4(config: Mapping[str, Any]) -> Quantization:
    return MXFP4()


READERS = {"gptq": _read_gptq, "awq": _read_awq, "fp8": _read_float8, "mxfp4": _read_mxfp4}


def _group_size(size: object) -> int:
    if type(size) is not int or (size != -1 and size <= 0):
        raise CompileError(f"group_size must be -1 or positive, got {size!r}")
    return size


@dataclass(frozen=True, slots=True)
class GPTQ:
    """Words of `bits` along K. Classic files (`zero_offset` 1) hold words of zero points minus 1 in every field.

    They were subtracted from the word as a whole, so that a zero point of 0 borrows from the next (GPTQModel).
    """

    bits: int
    group_size: int
    zero_offset: int

    def applies(self, file: Safetensors, prefix: str) -> bool:
        return f"{prefix}.qweight" in file.tensors

    def matrix(self, file: Safetensors, prefix: str) -> PackedLayer:
        words = _words(file, f"{prefix}.qweight")
        per_word = WORD_BITS // self.bits
        shape = words.shape[1], words.shape[0] * per_word
        ones = sum(1 << (self.bits * i) for i in range(per_word))
        packing = Packing(self.bits, tuple(range(per_word)), self.zero_offset * ones)
        grid = _grid(file, prefix, packing, shape, self.group_size)
        _refuse_activation_order(file, prefix, shape[1], grid.group)
        return PackedLayer(file, words, shape, grid, _gptq_levels)


@dataclass(frozen=True, slots=True)
class AWQ:
    """Words of eight columns, in the order of its GEMM kernels; 4 bits."""

    group_size: int

    def applies(self, file: Safetensors, prefix: str) -> bool:
        return f"{prefix}.qweight" in file.tensors

    def matrix(self, file: Safetensors, prefix: str) -> PackedLayer:
        words = _words(file, f"{prefix}.qweight")
        shape = words.shape[1] * len(AWQ_ORDER), words.shape[0]
        grid = _grid(file, prefix, AWQ_PACKING, shape, self.group_size)
        return PackedLayer(file, words, shape, grid, _awq_levels)


class Packing(NamedTuple):
    """How columns share words: `order[j]` is where a word keeps column j of its own, counted from the lowest bits.

    `missing` is what must be added to a word first.
    """

    bits: int
    order: tuple[int, ...]
    missing: int = 0

    def columns(self, file: Safetensors, tensor: SafeTensor, start: int, stop: int) -> Bytes:
        """Columns of the layer, (R, stop - start), from a tensor of words."""
        per_word = len(self.order)
        words = _read_columns(file, tensor, start // per_word, -(-stop // per_word)).view(np.uint32)
        words += np.uint32(self.missing)  # modulo 2^32
        fields = np.empty((*words.shape, per_word), np.uint8)
        for j, field in enumerate(self.order):
            fields[..., j] = (words >> np.uint32(field * self.bits)) & np.uint32((1 << self.bits) - 1)
        return fields.reshape(len(words), -1)[:, start % per_word :][:, : stop - start]

    def middle_word(self) -> int:
        """The word of zero points that are all 2^(bits-1)."""
        return sum(1 << (self.bits * (i + 1) - 1) for i in range(len(self.order))) - self.missing


AWQ_PACKING = Packing(4, AWQ_ORDER)


@dataclass(frozen=True, slots=True)
class Grid:
    """Scales and zero points of a layer, one of each per row and group of columns."""

    file: Safetensors
    scales: SafeTensor  # (K / group, N)
    zeros: SafeTensor  # (K / group, N / per word)
    packing: Packing
    group: int
    symmetric: bool

    @property
    def block(self) -> int:
        """The largest block of ours that divides a group."""
        return next(block for block in BLOCKS if self.group % block == 0)

    @property
    def format(self) -> str:
        zero_points = "" if self.symmetric else "-zp"
        return f"int{self.packing.bits}-{self.block}{zero_points}{'' if self.scales.dtype == 'F16' else '-f32'}"

    def heads(self, start: int, stop: int) -> Bytes:
        """What stands before the levels of each block of rows `start` to `stop`, (rows, K / block, bytes)."""
        scales = _read_columns(self.file, self.scales, start, stop)
        if not np.isfinite(scales).all():
            raise CompileError(f"tensor {self.scales.name} holds a scale that is not finite: the checkpoint is damaged")
        kept = scales if self.scales.dtype == "F16" else scales.astype(np.float32)
        fields = [np.ascontiguousarray(kept.T)[..., None].view(np.uint8)]
        if not self.symmetric:
            fields.append(self.packing.columns(self.file, self.zeros, start, stop).T[..., None])
        return np.repeat(np.concatenate(fields, axis=-1), self.group // self.block, axis=1)


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """Rows of a layer in one of our integer formats. Only the columns of a file that are asked for are read."""

    file: Safetensors
    words: SafeTensor
    shape: tuple[int, int]
    grid: Grid
    levels: Callable[[Safetensors, SafeTensor, int, int], Bytes]  # (rows, K · bits / 8)

    @property
    def format(self) -> str:
        return self.grid.format

    def rows(self, start: int, stop: int) -> Bytes:
        heads = self.grid.heads(start, stop)
        levels = self.levels(self.file, self.words, start, stop).reshape(*heads.shape[:2], -1)
        return np.concatenate([heads, levels], axis=-1).reshape(stop - start, -1)


def _gptq_levels(file: Safetensors, words: SafeTensor, start: int, stop: int) -> Bytes:
    """Little-endian words along K are the bytes that we want."""
    return np.ascontiguousarray(_read_columns(file, words, start, stop).T).view(np.uint8)


def _awq_levels(file: Safetensors, words: SafeTensor, start: int, stop: int) -> Bytes:
    return pack(AWQ_PACKING.columns(file, words, start, stop).T, AWQ_PACKING.bits)


def _read_columns(file: Safetensors, tensor: SafeTensor, start: int, stop: int) -> NDArray[np.generic]:
    """Columns of a matrix, (R, stop - start), without reading the others."""
    num_rows, num_columns = tensor.shape
    item = tensor.nbytes // (num_rows * num_columns)
    pieces = [file.read(tensor, (row * num_columns + start) * item, (stop - start) * item) for row in range(num_rows)]
    values: NDArray[np.generic] = np.stack(pieces).view(WORD if tensor.dtype == "I32" else DENSE[tensor.dtype])
    return values


def _words(file: Safetensors, name: str) -> SafeTensor:
    tensor = file[name]
    if tensor.dtype != "I32" or len(tensor.shape) != 2 or 0 in tensor.shape:
        raise CompileError(f"tensor {name} must be a matrix of I32, got {tensor.dtype} of shape {list(tensor.shape)}")
    return tensor


def _grid(file: Safetensors, prefix: str, packing: Packing, shape: tuple[int, int], group_size: int) -> Grid:
    """Raises CompileError unless scales and zero points fit a layer of shape (N, K)."""
    zeros, scales = _words(file, f"{prefix}.qzeros"), file[f"{prefix}.scales"]
    num_rows, num_columns = shape
    group = num_columns if group_size == -1 else min(group_size, num_columns)
    if num_columns % group or group % BLOCKS[-1]:
        raise CompileError(f"{prefix}: groups of {group} must divide {num_columns} columns and be multiples of 16")
    if scales.dtype not in DENSE:
        raise CompileError(f"tensor {scales.name} must be one of {', '.join(DENSE)}, got {scales.dtype}")
    for tensor, width in ((zeros, -(-num_rows // len(packing.order))), (scales, num_rows)):
        if tensor.shape != (num_columns // group, width):
            raise CompileError(
                f"tensor {tensor.name} has shape {list(tensor.shape)}, {packing.bits} bits in groups of {group} "
                f"need {[num_columns // group, width]}: bits or group_size in the config are not those of the file"
            )
    return Grid(file, scales, zeros, packing, group, _all_equal(file, zeros, packing.middle_word()))


def _all_equal(file: Safetensors, tensor: SafeTensor, word: int) -> bool:
    row_bytes = tensor.nbytes // tensor.shape[0]
    rows = (file.read(tensor, i * row_bytes, row_bytes).view(WORD) for i in range(tensor.shape[0]))
    return all(bool((row == np.uint32(word)).all()) for row in rows)


def _refuse_activation_order(file: Safetensors, prefix: str, num_columns: int, group: int) -> None:
    """Groups in the order of activations would need the inputs of the layer permuted."""
    tensor = file.tensors.get(f"{prefix}.g_idx")
    if tensor is None or tensor.nbytes == 0:
        return
    if tensor.dtype != "I32" or tensor.shape != (num_columns,):
        raise CompileError(
            f"tensor {tensor.name} must be {num_columns} of I32, got {tensor.dtype} {list(tensor.shape)}"
        )
    groups = file.read(tensor, 0, tensor.nbytes).view(WORD)
    if not np.array_equal(groups, np.arange(num_columns) // group):
        raise CompileError(f"{prefix}: desc_act (g_idx out of order) is not supported: quantize with desc_act=False")
