from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from mistralrs_onnx.compiler.checkpoints.safetensors import DTYPES, Safetensors, read_safetensors
from mistralrs_onnx.compiler.errors import CompileError

NUMPY = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def write_sharded(folder: Path) -> Path:
    """Two tensors in two shards."""
    for i, name in enumerate(("a", "b"), 1):
        save_file({name: np.full((2, 3), i, np.float32)}, folder / f"model-0000{i}-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_index(folder, weight_map)
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    index = {"metadata": {"total_size": 48}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], Safetensors]:
    def write_and_open(content: bytes) -> Safetensors:
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        return read_safetensors(path)

    return write_and_open


def test_reads_every_dtype_as_the_reference_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, (3, 4)).astype(dtype) for name, dtype in NUMPY.items()}
    save_file(
        arrays | {"empty": np.zeros((0, 4), np.float32), "one": np.array(2, np.int32)}, tmp_path / "m.safetensors"
    )
    theirs = dict(safetensors.deserialize((tmp_path / "m.safetensors").read_bytes()))
    with read_safetensors(tmp_path / "m.safetensors") as ours:
        assert set(ours.tensors) == set(theirs)
        for name, tensor in ours.tensors.items():
            kept = theirs[name]
            assert [tensor.dtype, list(tensor.shape)] == [kept["dtype"], kept["shape"]]
            assert ours.read(tensor, 0, tensor.nbytes).tobytes() == bytes(kept["data"])
    assert {ours.tensors[name].dtype for name in NUMPY} == set(DTYPES)


def test_reads_part_of_a_tensor(opened: Callable[[bytes], Safetensors]) -> None:
    with opened(file_of({"t": entry(0, 8), "u": entry(8, 12)}, bytes(range(12)))) as file:
        assert file.read(file["t"], 3, 2).tolist() == [3, 4]
        assert file.read(file["u"], 0, 4).tolist() == [8, 9, 10, 11]


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        with read_safetensors(path) as file:
            assert set(file.tensors) == {"a", "b"}
            assert file.read(file["b"], 0, 24).view(np.float32).tolist() == [2.0] * 6


@pytest.mark.parametrize("name", ["model.safetensors", "gptq_model-4bit-128g.safetensors"])
def test_a_folder_with_one_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(file_of({"t": entry(0, 1)}, b"7"))
    with read_safetensors(tmp_path) as file:
        assert list(file.tensors) == ["t"]


def test_a_tensor_that_is_not_there_is_named_with_the_nearest(opened: Callable[[bytes], Safetensors]) -> None:
    with (
        opened(file_of({"norm.weight": entry(0, 0)})) as file,
        pytest.raises(CompileError, match=r"is it norm\.weight"),
    ):
        file["norm.weigth"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 10 bytes, got 0: it is truncated"),
        (b"PK\x03\x04" + bytes(40), "header must be JSON|header length must be"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "header length must be 2 to"),
        (struct.pack("<Q", 3) + b"{}", "within the file of 10 bytes, got 3: it is truncated"),
        (file_of(b"[]"), "header must be a JSON object, got list"),
        (file_of(b"{'t': 1}"), "header must be JSON"),
        (file_of(b'{"\xff": 1}'), "header must be JSON"),
        (file_of(b"[" * 100_000), "header must be JSON"),
        (file_of(b"[" * (1 << 20) + b"["), "at most 1048576 JSON values"),
        (file_of(b'{"t": {}, "t": {}}'), "names in header must be different, got 't' twice"),
        (file_of({"__metadata__": {"format": 1}}), "__metadata__ must be an object of strings"),
        (file_of({"": entry(0, 1)}, b"1"), "tensor name must be 1 to"),
        (file_of({"\x1b[2J": entry(0, 1)}, b"1"), "printable"),
        (file_of({"t": 5}), "entry of tensor 't' must be an object of dtype, shape and data_offsets"),
        (file_of({"t": entry(0, 1) | {"more": 1}}, b"1"), "an object of dtype, shape and data_offsets"),
        (file_of({"t": entry(0, 1, dtype="Q4")}, b"1"), "dtype of tensor 't' must be one of F64, .* got 'Q4'"),
        (file_of({"t": entry(0, 1) | {"dtype": ["U8"]}}, b"1"), "dtype of tensor 't'"),
        (file_of({"t": entry(0, 1, [True])}, b"1"), "shape of tensor 't' must be at most 8 integers"),
        (file_of({"t": entry(0, 1, [-1])}, b"1"), "shape of tensor 't'"),
        (file_of({"t": entry(0, 1, [1.0])}, b"1"), "shape of tensor 't'"),  # type: ignore[list-item]
        (file_of({"t": entry(0, 1, [1] * 9)}, b"1"), "at most 8 integers"),
        (file_of({"t": entry(0, 1, [2**48, 0])}, b"1"), "from 0 to 281474976710655"),
        (file_of(b'{"t": 1' + b"0" * 5000 + b"}"), "header must be JSON"),
        (file_of({"t": entry(0, 1) | {"data_offsets": [0]}}, b"1"), "must be begin and end"),
        (file_of({"t": entry(0, 1) | {"data_offsets": [1, 0]}}, b"1"), "must be begin and end"),
        (file_of({"t": entry(0, 4, [2], "F32")}, bytes(4)), r"must be 8 bytes for F32 of shape \[2\], got 4"),
        (file_of({"t": entry(1, 2)}, b"12"), "begin of tensor 't' must be 0, .* got 1: gap"),
        (file_of({"t": entry(0, 2), "u": entry(1, 2)}, b"12"), "begin of tensor 'u' must be 2, .* got 1: overlap"),
        (file_of({"t": entry(0, 2)}, b"1"), "must be 1, the end of the file, got 2: it is truncated"),
        (file_of({"t": entry(0, 2)}, b"123"), "must be 3, the end of the file, got 2"),
    ],
)
def test_each_rule_has_its_message(opened: Callable[[bytes], Safetensors], content: bytes, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        opened(content)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ([], "weight_map must be an object"),
        ({}, "weight_map must be an object"),
        ({"a": "../model.safetensors"}, "a plain name that ends in .safetensors, got '../model"),
        ({"a": "/etc/x.safetensors"}, "a plain name"),
        ({"a": "C:x.safetensors"}, "a plain name"),
        ({"a": "..\\x.safetensors"}, "a plain name"),
        ({"a": "x.bin"}, "a plain name"),
        ({"a": 3}, "a plain name"),
        ({"a": "absent.safetensors"}, "the file 'absent.safetensors' is missing: download it"),
        ({f"t{i}": f"{i}.safetensors" for i in range(1001)}, "names of at most 1000 files"),
        ({"a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}, "promises tensor 'c'"),
        ({"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}, "promises tensor 'a'"),
    ],
)
def test_an_index_that_cannot_be_true(tmp_path: Path, weight_map: object, message: str) -> None:
    write_sharded(tmp_path)
    write_index(tmp_path, weight_map)
    with pytest.raises(CompileError, match=message):
        read_safetensors(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    save_file({"a": np.zeros(1), "b": np.zeros(1)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(CompileError, match=r"in one shard, got 'a', which is in model-00001-of-00002\.safetensors too"):
        read_safetensors(tmp_path)


def test_links_stay_in_the_folder_or_in_the_blobs_of_the_hub(tmp_path: Path) -> None:
    blobs, snapshot, elsewhere = tmp_path / "blobs", tmp_path / "snapshots" / "1234", tmp_path / "elsewhere"
    for folder in (blobs, snapshot, elsewhere):
        folder.mkdir(parents=True)
        (folder / "content").write_bytes(file_of({"t": entry(0, 1)}, b"7"))
    link = snapshot / "model.safetensors"
    for target in ("../../blobs/content", "content"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        read_safetensors(snapshot).close()
    link.unlink()
    link.symlink_to("../../elsewhere/content")
    with pytest.raises(CompileError, match="outside its folder: copy the file there"):
        read_safetensors(snapshot)


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        ([], "", "no \\*.safetensors file in this folder"),
        (["pytorch_model.bin"], "", "PyTorch files hold code .* convert the checkpoint to safetensors"),
        (["model.pt"], "model.pt", "convert the checkpoint to safetensors"),
        (
            ["a.safetensors", "b.safetensors"],
            "",
            r"several others \(a.safetensors, b.safetensors\): give the path of one",
        ),
        (["model.gguf"], "model.gguf", "its name must end in .safetensors"),
        ([], "absent.safetensors", "no such file or folder"),
    ],
)
def test_places_without_a_checkpoint(tmp_path: Path, names: list[str], asked: str, message: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CompileError, match=message):
        read_safetensors(tmp_path / asked)


def test_a_file_that_shrinks_while_open_is_noticed(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    with read_safetensors(tmp_path) as file:
        (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
        with pytest.raises(CompileError, match="tensor a: wanted 24 bytes, got 0: the file changed"):
            file.read(file["a"], 0, 24)


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"\xc4\x80",', b"0.5,"])
def test_a_hostile_header_takes_bounded_memory(opened: Callable[[bytes], Safetensors], unit: bytes) -> None:
    """As many small values as the length allows, and as the number of values allows, with a wide letter in the text."""
    wide = '{"\U0001f680":['.encode()
    for num_bytes in ((16 << 20) - 100, (1 << 20) * 3 // 4 * len(unit) // (1 + (unit[:1] in b"[{"))):
        content = wide + unit * (num_bytes // len(unit)) + b"0]}"
        tracemalloc.start()
        with pytest.raises(CompileError):
            opened(file_of(content))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 256 << 20
