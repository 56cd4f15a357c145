"""Damaged checkpoints of every kind: each is read, or refused with a CompileError, quickly and in little memory."""

from __future__ import annotations

import json
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import gguf as reference
import numpy as np
import pytest
from safetensors.numpy import save

from mistralrs_onnx.compiler.checkpoints.ggml_file import read_ggml
from mistralrs_onnx.compiler.checkpoints.gguf import read_gguf
from mistralrs_onnx.compiler.checkpoints.safetensors import read_safetensors
from mistralrs_onnx.compiler.errors import CompileError

EXTREMES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = (
    "-1",
    "0.5",
    "1e999",
    "281474976710656",
    "9" * 30,
    "9" * 5000,
    "true",
    "null",
    "[]",
    "{}",
    '"\\ud800"',
    "[[[[",
)


class Kind(NamedTuple):
    """A reader, the suffix of its files, and a small file."""

    read: Callable[[Path], object]
    suffix: str
    content: bytes


def gguf_file(folder: Path) -> bytes:
    path = folder / "small.gguf"
    writer = reference.GGUFWriter(path, "llama")
    writer.add_string("text", "naïve 🚀")
    writer.add_array("words", ["a", "", "ü"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_float64("f64", 0.1)
    writer.add_tensor("a", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("q", np.zeros((2, 20), np.uint8), raw_dtype=reference.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def ggml_file() -> bytes:
    head = struct.pack("<9I", 0x67676A74, 3, 2, 64, 256, 4, 1, 16, 2)
    content = head + b"".join(struct.pack("<I", len(w)) + w + struct.pack("<f", 0) for w in (b"a", b"bc"))
    for name, dims, number, num_bytes in ((b"norm", (4,), 0, 16), (b"w", (64, 2), 2, 72)):
        content += struct.pack(f"<{3 + len(dims)}I", len(dims), len(name), number, *dims) + name
        content += bytes(-len(content) % 32) + bytes(num_bytes)
    return content


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    tensors = {"a.weight": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16), "c": np.array(1, np.int64)}
    return {
        "safetensors": Kind(read_with_bytes(read_safetensors), ".safetensors", save(tensors, {"format": "pt"})),
        "gguf": Kind(read_with_bytes(read_gguf), ".gguf", gguf_file(tmp_path_factory.mktemp("gguf"))),
        "ggml": Kind(read_with_bytes(read_ggml), ".bin", ggml_file()),
    }


def read_with_bytes(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """Reads all tensors too: their records promise that the bytes are there."""

    def whole(path: Path) -> None:
        with read(path) as file:  # type: ignore[attr-defined]
            for tensor in file.tensors.values():
                assert file.read(tensor, 0, tensor.nbytes).nbytes == tensor.nbytes

    return whole


class Damage:
    """Puts contents into one file, and counts how many were read and how many refused."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.read = kind.read
        self.path = folder / f"damaged{kind.suffix}"
        self.path.touch()
        self.accepted = self.refused = 0
        self.slowest = 0.0

    def __call__(self, content: bytes) -> None:
        with self.path.open("r+b") as file:  # thousands of times faster than replacing it on some file systems
            file.write(content)
            file.truncate()
        begin = time.process_time()
        try:
            self.read(self.path)
            self.accepted += 1
        except CompileError:
            self.refused += 1
        self.slowest = max(self.slowest, time.process_time() - begin)


def mutations(content: bytes, seed: int) -> Iterator[bytes]:
    """Without end: bytes flipped, pieces cut, doubled or overwritten, integers at their extremes."""
    rng = np.random.default_rng(seed)
    while True:
        damaged = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            at, length = int(rng.integers(len(damaged))), int(rng.integers(1, 17))
            match int(rng.integers(5)):
                case 0:
                    damaged[at] ^= int(rng.integers(1, 256))
                case 1:
                    del damaged[at : at + length]
                case 2:
                    damaged[at:at] = damaged[at : at + length]
                case 3:
                    damaged[at : at + length] = rng.bytes(length)
                case _:
                    value = EXTREMES[int(rng.integers(len(EXTREMES)))]
                    damaged[at : at + 8] = struct.pack("<Q", value)[: 4 if value < 1 << 32 else 8]
            damaged = damaged or bytearray(1)
        yield bytes(damaged)


def text_mutations(content: bytes, seed: int) -> Iterator[bytes]:
    """The same for the JSON of safetensors, with its length put right, so that parsing gets past it."""
    length = struct.unpack_from("<Q", content)[0]
    text, data = content[8 : 8 + length], content[8 + length :]
    rng = np.random.default_rng(seed)
    for damaged in mutations(text, seed):
        if rng.integers(2):  # a value changed for another
            values = [i for i in range(len(text)) if text[i : i + 1].isdigit()]
            at = values[int(rng.integers(len(values)))]
            damaged = text[:at] + NUMBERS[int(rng.integers(len(NUMBERS)))].encode() + text[at + 1 :]
        yield struct.pack("<Q", len(damaged)) + damaged + data


NAMES = ("safetensors", "gguf", "ggml")


def attack(kind: Kind, folder: Path, count: int) -> Damage:
    damage = Damage(kind, folder)
    streams = [mutations(kind.content, 1)]
    if kind.suffix == ".safetensors":
        streams.append(text_mutations(kind.content, 2))
    for i in range(count):
        damage(next(streams[i % len(streams)]))
    return damage


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_is_read(kinds: dict[str, Kind], tmp_path: Path, name: str) -> None:
    damage = Damage(kinds[name], tmp_path)
    damage(kinds[name].content)
    assert damage.accepted == 1


@pytest.mark.parametrize("name", NAMES)
def test_truncated_at_every_byte(kinds: dict[str, Kind], tmp_path: Path, name: str) -> None:
    damage = Damage(kinds[name], tmp_path)
    for length in range(len(kinds[name].content)):
        damage(kinds[name].content[:length])
    ends = {"safetensors": 0, "gguf": 31, "ggml": 2}[name]  # padding of the last tensor; the format counts no tensors
    assert damage.accepted <= ends


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", ["<I", "<Q"])
def test_extremes_in_every_place(kinds: dict[str, Kind], tmp_path: Path, name: str, width: str) -> None:
    """Every length is hit, because every byte is."""
    content, size = kinds[name].content, struct.calcsize(width)
    damage = Damage(kinds[name], tmp_path)
    for position in range(len(content) - size):
        for value in EXTREMES:
            if value < 1 << 8 * size:
                damage(content[:position] + struct.pack(width, value) + content[position + size :])
    assert damage.refused > damage.accepted // 10


@pytest.mark.parametrize("value", NUMBERS)
def test_every_number_of_a_safetensors_header_at_its_extremes(
    kinds: dict[str, Kind], tmp_path: Path, value: str
) -> None:
    content = kinds["safetensors"].content
    length = struct.unpack_from("<Q", content)[0]
    text, data = content[8 : 8 + length].decode(), content[8 + length :]
    damage = Damage(kinds["safetensors"], tmp_path)
    for place in [i for i, letter in enumerate(text) if letter.isdigit()]:
        changed = (text[:place] + value + text[place + 1 :]).encode()
        damage(struct.pack("<Q", len(changed)) + changed + data)
    assert damage.refused


@pytest.mark.parametrize("name", NAMES)
def test_a_few_hundred_mutations(kinds: dict[str, Kind], tmp_path: Path, name: str) -> None:
    damage = attack(kinds[name], tmp_path, 400)
    assert damage.refused
    assert damage.accepted
    assert damage.slowest < 1  # CPU seconds; a file takes less than a millisecond


def test_mutations_of_an_index(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(save({"a": np.zeros(1), "b": np.zeros(1)}))
    content = json.dumps({"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}).encode()
    damage = Damage(Kind(read_with_bytes(read_safetensors), ".safetensors.index.json", content), tmp_path)
    stream = mutations(content, 3)
    for _ in range(400):
        damage(next(stream))
    assert damage.refused


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_twenty_thousand_mutations(kinds: dict[str, Kind], tmp_path: Path) -> None:
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, count in (("safetensors", 7000), ("gguf", 7000), ("ggml", 6000)):
        damage = attack(kinds[name], tmp_path, count)
        print(f"{name}: {damage.accepted} read, {damage.refused} refused, slowest {1000 * damage.slowest:.1f} ms")
        assert damage.slowest < 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin
    print(f"peak memory grew by {grown >> 10} MiB")
    assert grown < 256 << 10
