from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mistralrs_onnx.compiler.checkpoints.ggml import TYPES
from mistralrs_onnx.compiler.checkpoints.ggml_file import GGJT, GGMF, GGML, GGMLFile, read_ggml
from mistralrs_onnx.compiler.errors import CompileError

HPARAMS = (2, 64, 256, 4, 1, 16, 2)  # n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, ftype
NUMBERS = {kind.name: number for number, kind in TYPES.items()}


def start(magic: int, version: int, hparams: tuple[int, ...] = HPARAMS) -> bytes:
    return (
        struct.pack("<I", magic) + (struct.pack("<I", version) if magic != GGML else b"") + struct.pack("<7I", *hparams)
    )


def tokens(*, scores: bool = True) -> bytes:
    words = (b"\xff\x00", b"hello")
    return b"".join(struct.pack("<I", len(w)) + w + (struct.pack("<f", -len(w)) if scores else b"") for w in words)


def tensor(before: bytes, name: str, dims: tuple[int, ...], kind: int, data: bytes, *, aligned: bool = True) -> bytes:
    """A file with one more tensor; `dims` as the file has them, the length of a row first."""
    sizes = struct.pack(f"<{len(dims)}I", *dims)
    record = struct.pack("<3I", len(dims), len(name), kind) + sizes + name.encode()
    padding = bytes(-(len(before) + len(record)) % 32) if aligned else b""
    return before + record + padding + data


def small(magic: int = GGJT, version: int = 3, kind: str = "Q4_0") -> bytes:
    """A norm and a matrix of two rows of 64, the largest row that keeps the file small for most types."""
    aligned, width = magic == GGJT, 256 if kind.endswith("_K") else 64
    number = NUMBERS[kind]
    num_bytes = 2 * width // TYPES[number].block_size * TYPES[number].type_size
    content = start(magic, version) + tokens(scores=magic != GGML)
    content = tensor(content, "norm.weight", (4,), 0, np.arange(4, dtype=np.float32).tobytes(), aligned=aligned)
    return tensor(
        content, "output.weight", (width, 2), number, bytes(i % 251 for i in range(num_bytes)), aligned=aligned
    )


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], GGMLFile]:
    def write_and_open(content: bytes) -> GGMLFile:
        path = tmp_path / "ggml-model.bin"
        path.touch()
        with path.open("r+b") as file:  # thousands of times faster than replacing it on some file systems
            file.write(content)
            file.truncate()
        return read_ggml(path)

    return write_and_open


@pytest.mark.parametrize(
    ("magic", "version", "kind"),
    [
        (GGML, 0, "F16"),
        (GGMF, 1, "F32"),
        (GGJT, 1, "F16"),
        (GGJT, 2, "Q5_0"),
        (GGJT, 2, "Q5_1"),
        *((GGJT, 3, kind) for kind in ("F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")),
        *((GGJT, 3, kind) for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")),
    ],
)
def test_reads_each_flavour(opened: Callable[[bytes], GGMLFile], magic: int, version: int, kind: str) -> None:
    with opened(small(magic, version, kind)) as file:
        assert (file.hparams.n_vocab, file.hparams.n_embd, file.hparams.n_rot, file.hparams.ftype) == (2, 64, 16, 2)
        assert file.tokens == [b"\xff\x00", b"hello"]
        if magic == GGML:
            assert file.scores is None
        else:
            assert file.scores is not None
            assert file.scores.tolist() == [-2.0, -5.0]
        norm, output = file.tensors["norm.weight"], file.tensors["output.weight"]
        assert (norm.type, norm.shape, output.type, output.shape[0]) == ("F32", (4,), kind, 2)
        assert file.read(norm, 0, 16).view(np.float32).tolist() == [0.0, 1.0, 2.0, 3.0]
        assert file.read(output, 3, 4).tolist() == [3, 4, 5, 6]
        assert output.offset % 32 == 0 or magic != GGJT


@pytest.mark.parametrize(
    ("magic", "version", "kind"),
    [(GGML, 0, "Q4_0"), (GGMF, 1, "Q4_1"), (GGJT, 1, "Q8_0"), (GGJT, 2, "Q4_0"), (GGJT, 2, "Q8_0"), (GGJT, 3, "Q8_1")],
)
def test_blocks_of_older_layouts_are_refused(
    opened: Callable[[bytes], GGMLFile], magic: int, version: int, kind: str
) -> None:
    with pytest.raises(CompileError, match=f"type of tensor output.weight must be one of F16, .* got {kind}: convert"):
        opened(small(magic, version, kind))


HEAD = start(GGJT, 3) + tokens()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 32 bytes"),
        (b"GGUF" + bytes(40), "magic must be that of ggml, ggmf or ggjt, got 0x46554747"),
        (start(GGMF, 2) + tokens(), "version must be that of one of ggml, ggmf v1, .* got 2: convert"),
        (start(GGJT, 4) + tokens(), "got 4: convert"),
        (start(GGJT, 3, (2**32 - 1, *HPARAMS[1:])), "n_vocab must be 1 to 262144, got 4294967295"),
        (start(GGJT, 3, (*HPARAMS[:3], 0, *HPARAMS[4:])), "n_head must be 1 to"),
        (start(GGJT, 3) + struct.pack("<I", 2**32 - 1), "token 0 must be within the file"),
        (start(GGJT, 3) + tokens()[:-4], "score of token 1 must be within the file"),
        (HEAD + struct.pack("<2I", 1, 1), "type of a tensor at .* must be within the file"),
        (tensor(HEAD, "t", (), 0, b""), "dimension count of the tensor at .* must be 1 or 2, got 0"),
        (tensor(HEAD, "t", (1, 1, 1), 0, b"1234"), "must be 1 or 2, got 3"),
        (tensor(HEAD, "", (1,), 0, b"1234"), "name length of the tensor at .* must be 1 to 1024, got 0"),
        (HEAD + struct.pack("<3I", 1, 2**31, 0) + bytes(8), "must be 1 to 1024, got 2147483648"),
        (HEAD + struct.pack("<4I", 1, 2, 0, 1) + b"\xff\xff" + bytes(32), "must be UTF-8"),
        (tensor(HEAD, "t", (1,), 4, bytes(99)), "got number 4: convert"),
        (tensor(HEAD, "t", (0, 4), 0, bytes(99)), "dimensions of tensor t must be positive"),
        (tensor(HEAD, "t", (33,), 2, bytes(99)), "row length of tensor t must be a multiple of 32 for Q4_0, got 33"),
        (tensor(HEAD, "t", (2**32 - 1, 2**32 - 1), 0, bytes(4)), "end of tensor t must be within the file"),
        (tensor(HEAD, "t", (4,), 0, bytes(15)), "end of tensor t must be within the file"),
        (tensor(tensor(HEAD, "t", (1,), 0, b"1234"), "t", (1,), 0, b"1234"), "tensor name must be new, got 't' twice"),
    ],
)
def test_each_rule_has_its_message(opened: Callable[[bytes], GGMLFile], content: bytes, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        opened(content)


def test_models_in_several_parts_are_refused(tmp_path: Path, opened: Callable[[bytes], GGMLFile]) -> None:
    (tmp_path / "ggml-model.bin.1").write_bytes(small(GGML, 0, "F16"))
    with pytest.raises(CompileError, match=r"one part of several \(ggml-model.bin.1 is beside it\)"):
        opened(small(GGML, 0, "F16"))


def test_truncated_inside_a_tensor_or_before_the_first(opened: Callable[[bytes], GGMLFile]) -> None:
    """Only the ends of tensors are ends of files: the format does not count them."""
    content = small()
    with opened(content) as file:
        ends = {tensor.offset + tensor.nbytes for tensor in file.tensors.values()} | {len(HEAD)}
    for length in range(len(content)):
        if length in ends:
            opened(content[:length]).close()
        else:
            with pytest.raises(CompileError):
                opened(content[:length])


def test_a_hostile_file_takes_bounded_memory(tmp_path: Path) -> None:
    """A gigabyte of holes with as many empty tokens as are allowed, and one with as many tensors."""
    path = tmp_path / "large.bin"
    record = struct.pack("<4I", 1, 6, 0, 1)
    many = b"".join(record + f"{i:06d}".encode() + bytes(4) for i in range(10_001))
    for content in (start(GGJT, 3, (1 << 18, *HPARAMS[1:])), start(GGMF, 1) + tokens() + many):
        with path.open("wb") as file:
            file.write(content)
            file.truncate(1 << 30)
        tracemalloc.start()
        with pytest.raises(CompileError):
            read_ggml(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 128 << 20
