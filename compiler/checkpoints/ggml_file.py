"""Reads llama files from before GGUF (ggml, ggmf, ggjt), believing nothing that they have not been checked to hold.

Layout: magic, version (not ggml); seven numbers; tokens; tensor records, each followed by its data, to the end.
Source: the loader of llama.cpp as it was in June 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.compiler.errors import CompileError

from .cursor import MAX_HEADER, Cursor, FieldError, decoded
from .ggml import TYPES
from .gguf import GGUFTensor
from .source import Source, about

MAX_TENSORS = 10_000  # 723 in the largest Llama
MAX_TENSOR_NAME = 1024
MAX_HPARAM = 1 << 18  # a vocabulary of 32,000 and a width of 8,192 are the largest that were made
ALIGNMENT = 32  # of tensor data in ggjt files
ADVICE = "convert the original model to GGUF with the converter of llama.cpp"

PLAIN = frozenset({"F32", "F16"})
FIVE_BITS = frozenset({"Q5_0", "Q5_1"})
K_QUANTS = frozenset({"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"})


class Flavour(NamedTuple):
    """`types`: those whose blocks were laid out as they are today."""

    name: str
    has_scores: bool
    alignment: int
    types: frozenset[str]


GGML, GGMF, GGJT = 0x67676D6C, 0x67676D66, 0x67676A74
FLAVOURS = {
    (GGML, 0): Flavour("ggml", has_scores=False, alignment=1, types=PLAIN),
    (GGMF, 1): Flavour("ggmf v1", has_scores=True, alignment=1, types=PLAIN),
    (GGJT, 1): Flavour("ggjt v1", has_scores=True, alignment=ALIGNMENT, types=PLAIN),
    (GGJT, 2): Flavour("ggjt v2", has_scores=True, alignment=ALIGNMENT, types=PLAIN | FIVE_BITS),
    (GGJT, 3): Flavour(
        "ggjt v3",
        has_scores=True,
        alignment=ALIGNMENT,
        types=PLAIN | FIVE_BITS | K_QUANTS | {"Q4_0", "Q4_1", "Q8_0"},
    ),
}


@dataclass(frozen=True, slots=True)
class HParams:
    """The numbers of the model. `ftype` is that of most of its tensors."""

    n_vocab: int
    n_embd: int
    n_mult: int
    n_head: int
    n_layer: int
    n_rot: int
    ftype: int


class GGMLFile:
    """An open file: hyperparameters, tokens with their scores, and bytes of tensors as they are asked for.

    `scores` is None in files of the first format, which has none.
    """

    def __init__(self, source: Source, flavour: str, header: Header, tensors: Mapping[str, GGUFTensor]) -> None:
        self.path = source.path
        self.flavour = flavour
        self.hparams = header.hparams
        self.tokens = header.tokens
        self.scores = header.scores
        self.tensors = tensors
        self._source = source

    def read(self, tensor: GGUFTensor, start: int, num_bytes: int) -> NDArray[np.uint8]:
        """Bytes `start` to `start + num_bytes` of a tensor, (num_bytes,), read now and not mapped.

        Raises CompileError when the file has become shorter since it was opened.
        """
        assert 0 <= start <= start + num_bytes <= tensor.nbytes
        return self._source.read(tensor.offset + start, num_bytes, f"tensor {tensor.name}")

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Header(NamedTuple):
    """What stands before the tensors, and where it ends."""

    hparams: HParams
    tokens: list[bytes]
    scores: NDArray[np.float32] | None
    end: int


def read_ggml(path: Path | str) -> GGMLFile:
    """Opens a file and checks all of it but the data of tensors. Raises CompileError."""
    path = Path(path)
    with about(path), ExitStack() as opened:
        source = opened.enter_context(Source(path))
        if source.size < 32:
            raise FieldError("file", "at least 32 bytes", f"{source.size}: it is truncated or no GGML file")
        _refuse_parts(path)
        with source.map(MAX_HEADER) as mapped:
            cursor = Cursor(mapped, source.size)
            flavour = _flavour(cursor)
            header = _header(cursor, flavour)
        tensors = _tensors(source, header.end, flavour)
        opened.pop_all()
    return GGMLFile(source, flavour.name, header, MappingProxyType(tensors))


def _refuse_parts(path: Path) -> None:
    if path.with_name(f"{path.name}.1").exists():
        raise CompileError(f"{path}: one part of several ({path.name}.1 is beside it), which cannot be read: {ADVICE}")


def _flavour(cursor: Cursor) -> Flavour:
    magic = cursor.u32("magic")
    if magic not in {GGML, GGMF, GGJT}:
        raise FieldError("magic", "that of ggml, ggmf or ggjt", f"{magic:#010x}: this is not a GGML file")
    version = 0 if magic == GGML else cursor.u32("version")
    if (magic, version) not in FLAVOURS:
        known = ", ".join(flavour.name for flavour in FLAVOURS.values())
        raise FieldError("version", f"that of one of {known}", f"{version}: {ADVICE}")
    return FLAVOURS[magic, version]


def _header(cursor: Cursor, flavour: Flavour) -> Header:
    hparams = HParams(*(cursor.u32(name) for name in HParams.__dataclass_fields__))
    for name, value in zip(HParams.__dataclass_fields__, astuple(hparams)[:-1], strict=False):
        if not 0 < value <= MAX_HPARAM:
            raise FieldError(name, f"1 to {MAX_HPARAM}", value)
    tokens: list[bytes] = []
    scores = bytearray()
    for i in range(hparams.n_vocab):
        tokens.append(cursor.raw(cursor.u32(f"length of token {i}"), f"token {i}"))
        if flavour.has_scores:
            scores += cursor.raw(4, f"score of token {i}")
    return Header(hparams, tokens, np.frombuffer(scores, "<f4") if flavour.has_scores else None, cursor.position)


def _tensors(source: Source, position: int, flavour: Flavour) -> dict[str, GGUFTensor]:
    tensors: dict[str, GGUFTensor] = {}
    while position < source.size:
        tensor = _tensor(source, position, flavour)
        if tensor.name in tensors:
            raise FieldError("tensor name", "new", f"{tensor.name!r} twice")
        if len(tensors) == MAX_TENSORS:
            raise FieldError("tensor count", f"at most {MAX_TENSORS}", "more")
        tensors[tensor.name] = tensor
        position = tensor.offset + tensor.nbytes
    return tensors


def _tensor(source: Source, position: int, flavour: Flavour) -> GGUFTensor:
    left = source.size - position
    cursor = Cursor(source.read(position, min(left, 2 * MAX_TENSOR_NAME), "tensor record").tobytes(), left)
    num_dims, length, number = (cursor.u32(f"{field} of a tensor at {position}") for field in ("rank", "name", "type"))
    if num_dims not in {1, 2}:
        raise FieldError(f"dimension count of the tensor at {position}", "1 or 2", num_dims)
    if not 0 < length <= MAX_TENSOR_NAME:
        raise FieldError(f"name length of the tensor at {position}", f"1 to {MAX_TENSOR_NAME}", length)
    dims = [cursor.u32(f"dimension of the tensor at {position}") for _ in range(num_dims)]
    name = decoded(cursor.raw(length, f"name of the tensor at {position}"), f"name of the tensor at {position}")
    start = -(-(position + cursor.position) // flavour.alignment) * flavour.alignment
    nbytes = _num_bytes(name, dims, number, flavour)
    if start + nbytes > source.size:
        raise FieldError(f"end of tensor {name}", f"within the file of {source.size} bytes", start + nbytes)
    return GGUFTensor(name, TYPES[number].name, tuple(reversed(dims)), start, nbytes)


def _num_bytes(name: str, dims: list[int], number: int, flavour: Flavour) -> int:
    kind = TYPES.get(number)
    if kind is None or kind.name not in flavour.types:
        known, got = ", ".join(sorted(flavour.types)), kind.name if kind else f"number {number}"
        raise FieldError(f"type of tensor {name}", f"one of {known} in {flavour.name} files", f"{got}: {ADVICE}")
    if min(dims) == 0:
        raise FieldError(f"dimensions of tensor {name}", "positive", dims)
    if dims[0] % kind.block_size:
        raise FieldError(f"row length of tensor {name}", f"a multiple of {kind.block_size} for {kind.name}", dims[0])
    return prod(dims) // kind.block_size * kind.type_size
