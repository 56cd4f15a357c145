from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf as reference
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mistralrs_onnx.compiler.checkpoints.ggml import TYPES
from mistralrs_onnx.compiler.checkpoints.gguf import GGUF, read_gguf
from mistralrs_onnx.compiler.errors import CompileError

BOUNDARIES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def write_small(path: Path) -> Path:
    """Two keys of every kind and three tensors."""
    writer = reference.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_int16("i16", -300)
    writer.add_uint64("u64", 2**60)
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", val=True)
    writer.add_string("text", "naïve 🚀")
    writer.add_array("words", ["a", "", "ü"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, 1.5])
    writer.add_tensor("a", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("b", np.arange(8, dtype=np.float16))
    blocks = np.arange(2 * 20, dtype=np.uint8).reshape(2, 20)
    writer.add_tensor("q", blocks, raw_dtype=reference.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_small(tmp_path_factory.mktemp("gguf") / "small.gguf").read_bytes()


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], GGUF]:
    def write_and_open(content: bytes) -> GGUF:
        path = tmp_path / "x.gguf"
        path.touch()
        with path.open("r+b") as file:  # thousands of times faster than replacing it on some file systems
            file.write(content)
            file.truncate()
        return read_gguf(path)

    return write_and_open


def same(ours: Any, theirs: Any) -> bool:
    return ours.tolist() == theirs if isinstance(ours, np.ndarray) else bool(ours == theirs)


def assert_like_reference(path: Path) -> None:
    theirs = reference.GGUFReader(path)
    with read_gguf(path) as ours:
        keys = {key for key in theirs.fields if not key.startswith("GGUF.")}
        assert set(ours.metadata) == keys
        assert all(same(ours.metadata[key], theirs.fields[key].contents()) for key in keys)
        assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
        for tensor in theirs.tensors:
            record = ours.tensors[tensor.name]
            assert (record.type, record.shape) == (tensor.tensor_type.name, tuple(int(n) for n in tensor.shape[::-1]))
            assert (record.offset, record.nbytes) == (tensor.data_offset, tensor.n_bytes)
            assert np.array_equal(ours.read(record, 0, record.nbytes), tensor.data.view(np.uint8).reshape(-1))


def test_reads_smollm2_as_the_reference_does(smollm2_gguf: Path) -> None:
    assert_like_reference(smollm2_gguf)


def test_reads_every_kind_of_value_as_the_reference_does(tmp_path: Path) -> None:
    assert_like_reference(write_small(tmp_path / "small.gguf"))


def test_reads_part_of_a_tensor(opened: Callable[[bytes], GGUF], small: bytes) -> None:
    with opened(small) as file:
        assert file.read(file.tensors["q"], 20, 5).tolist() == [20, 21, 22, 23, 24]


def test_metadata_is_read_by_type(opened: Callable[[bytes], GGUF], small: bytes) -> None:
    with opened(small) as file:
        metadata = file.metadata
    assert metadata.string("general.architecture") == "llama"
    assert (metadata.integer("i16"), metadata.number("f64"), metadata.flag("yes")) == (-300, 0.1, True)
    assert (metadata.strings("words"), metadata.integers("ints").tolist()) == (["a", "", "ü"], [1, -2, 3])
    assert (metadata.integer("absent", 7), metadata.flag("absent", default=False)) == (7, False)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda metadata: metadata.string("absent"), "lacks metadata key absent"),
        (lambda metadata: metadata.string("u8"), "u8 must be a string, got 200"),
        (lambda metadata: metadata.integer("yes"), "yes must be an integer, got True"),
        (lambda metadata: metadata.number("text"), "text must be a number"),
        (lambda metadata: metadata.flag("u8"), "u8 must be true or false"),
        (lambda metadata: metadata.strings("ints"), "ints must be an array of strings, got an array of 3"),
        (lambda metadata: metadata.integers("floats"), "floats must be an array of integers"),
    ],
)
def test_metadata_of_another_type_is_named(
    opened: Callable[[bytes], GGUF], small: bytes, read: Callable[[Any], object], message: str
) -> None:
    with opened(small) as file, pytest.raises(CompileError, match=message) as refused:
        read(file.metadata)
    assert str(refused.value).startswith(f"{file.path}: ")


def test_block_layouts_are_those_of_the_reference() -> None:
    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in reference.GGML_QUANT_SIZES.items()}
    theirs[9] = ("Q8_1", 32, 36)  # two halves and 32 bytes since 2024; the Python package has the older floats
    assert {number: tuple(kind) for number, kind in TYPES.items()} == theirs


def test_truncated_anywhere(opened: Callable[[bytes], GGUF], small: bytes) -> None:
    with opened(small) as file:
        needed = max(tensor.offset + tensor.nbytes for tensor in file.tensors.values())
    for length in range(needed):
        with pytest.raises(CompileError):
            opened(small[:length])
    opened(small[:needed]).close()


@pytest.mark.parametrize("width", ["<I", "<Q"])
def test_boundary_values_in_every_place(opened: Callable[[bytes], GGUF], small: bytes, width: str) -> None:
    """Every field is hit, because every byte is."""
    size = struct.calcsize(width)
    for position in range(len(small) - size):
        for value in BOUNDARIES:
            if value < 1 << 8 * size:
                try_open(opened, small[:position] + struct.pack(width, value) + small[position + size :])


@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=8))
@example(flips=[(8, 1)])
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_flipped_bytes(opened: Callable[[bytes], GGUF], small: bytes, flips: list[tuple[int, int]]) -> None:
    content = bytearray(small)
    for position, flip in flips:
        content[position % len(content)] ^= flip
    try_open(opened, bytes(content))


def try_open(opened: Callable[[bytes], GGUF], content: bytes) -> None:
    """Passes for a file that is refused, and for one that is read with all its tensors inside it."""
    try:
        file = opened(content)
    except CompileError:
        return
    with file:
        assert all(tensor.offset + tensor.nbytes <= len(content) for tensor in file.tensors.values())


def header(
    *, version: int = 3, tensors: bytes = b"", pairs: bytes = b"", num_tensors: int = 0, num_keys: int = 0
) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + pairs + tensors


def name(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def pair(key: str, kind: int, content: bytes) -> bytes:
    return name(key) + struct.pack("<I", kind) + content


def tensor(text: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = b"".join(struct.pack("<Q", dim) for dim in dims)
    return name(text) + struct.pack("<I", len(dims)) + sizes + struct.pack("<IQ", kind, offset)


ALIGNED = pair("general.alignment", 4, struct.pack("<I", 24))
SPLIT = pair("split.count", 2, struct.pack("<H", 3))
DEEP = struct.pack("<IQ", 9, 1) * 5 + struct.pack("<IQ", 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 24 bytes"),
        (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
        (header(version=1), "version must be 2 or 3, got 1: convert"),
        (header(version=3 << 24), "big-endian"),
        (header(num_keys=100_001), "key count must be at most 100000"),
        (header(num_tensors=2**63), "tensor count must be at most 100000"),
        (header(num_keys=1, pairs=struct.pack("<Q", 1 << 20)), "length of key 0"),
        (header(num_keys=1, pairs=pair("k", 13, bytes(8))), "type of k"),
        (header(num_keys=1, pairs=pair("k", 7, b"\x02")), "k must be 0 or 1"),
        (header(num_keys=1, pairs=pair("k", 8, struct.pack("<Q", 2) + b"\xff\xfe")), "k must be UTF-8"),
        (header(num_keys=1, pairs=pair("k", 8, struct.pack("<Q", 2**64 - 1))), "k must be within the file"),
        (header(num_keys=1, pairs=pair("k", 9, struct.pack("<IQ", 0, 2**62))), "k must be within the file"),
        (header(num_keys=1, pairs=pair("k", 9, struct.pack("<IQ", 8, 2**62))), "at most 1048576 strings"),
        (header(num_keys=1, pairs=pair("k", 9, struct.pack("<IQ", 8, 2) + name("a") + b"\x09")), r"k\[1\]"),
        (header(num_keys=1, pairs=pair("k", 9, DEEP)), "nested at most 4 deep"),
        (header(num_keys=2, pairs=pair("k", 0, b"1") * 2), "key 1 must be a new name, got 'k'"),
        (header(num_keys=1, pairs=ALIGNED), "general.alignment must be a power of two, got 24"),
        (header(num_keys=1, pairs=SPLIT), "lacks metadata key split.no"),
        (header(num_tensors=1, tensors=tensor("t", (), 0, 0)), "dimension count of tensor t must be 1 to 4, got 0"),
        (header(num_tensors=1, tensors=tensor("t", (4,) * 5, 0, 0)), "1 to 4, got 5"),
        (header(num_tensors=1, tensors=tensor("t", (4, 0), 0, 0)), "must be positive"),
        (header(num_tensors=1, tensors=tensor("t", (2**63,) * 4, 0, 0)), "end of tensor t must be within the file"),
        (header(num_tensors=1, tensors=tensor("t", (4,), 4, 0)), "type of tensor t must be a GGML type, got 4"),
        (header(num_tensors=1, tensors=tensor("t", (33,), 2, 0)), "a multiple of 32 for Q4_0, got 33"),
        (header(num_tensors=1, tensors=tensor("t", (4,), 0, 8) + bytes(99)), "offset of tensor t must be a multiple"),
        (header(num_tensors=2, tensors=tensor("t", (4,), 0, 0) * 2 + bytes(99)), "'t' twice"),
        (
            header(num_tensors=2, tensors=tensor("t", (9,), 0, 0) + tensor("u", (4,), 0, 32) + bytes(999)),
            "offset of tensor u must be past the end of tensor t",
        ),
    ],
)
def test_each_rule_has_its_message(opened: Callable[[bytes], GGUF], content: bytes, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        opened(content)


def test_version_2_is_read(opened: Callable[[bytes], GGUF]) -> None:
    with opened(header(version=2, num_keys=1, pairs=pair("k", 0, b"\x05"))) as file:
        assert (file.version, file.metadata.integer("k")) == (2, 5)


def test_nested_arrays_are_read(opened: Callable[[bytes], GGUF]) -> None:
    inner = struct.pack("<IQ", 0, 2) + b"\x01\x02"
    with opened(header(num_keys=1, pairs=pair("k", 9, struct.pack("<IQ", 9, 2) + inner * 2))) as file:
        assert [part.tolist() for part in file.metadata["k"]] == [[1, 2], [1, 2]]  # type: ignore[union-attr]


def test_places_that_are_no_files_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(CompileError, match="no such file"):
            read_gguf(path)


def test_a_file_that_shrinks_while_open_is_noticed(tmp_path: Path) -> None:
    path = write_small(tmp_path / "small.gguf")
    with read_gguf(path) as file:
        path.write_bytes(b"")
        with pytest.raises(CompileError, match="the file changed"):
            file.read(file.tensors["a"], 0, 16)


def test_a_hostile_header_takes_bounded_memory(tmp_path: Path) -> None:
    """A gigabyte of holes that claims to be nothing but empty strings and arrays."""
    path = tmp_path / "large.gguf"
    for kind in (8, 9):
        with path.open("wb") as file:
            file.write(
                header(
                    num_keys=1, pairs=pair("k", 9, struct.pack("<IQ", kind, (1 << 20) - 1 if kind == 8 else 1 << 16))
                )
            )
            file.truncate(1 << 30)
        tracemalloc.start()
        with suppress(CompileError):
            read_gguf(path).close()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 128 << 20


def write_split(folder: Path, *, total: int = 3, names: tuple[str, ...] = ("a", "b", "c"), counts: int = 3) -> Path:
    """Three parts with a tensor each; the first one holds the metadata of the model too."""
    for i, text in enumerate(names):
        pairs = pair("split.no", 2, struct.pack("<H", i)) + pair("split.count", 2, struct.pack("<H", counts))
        pairs += pair("split.tensors.count", 5, struct.pack("<i", total)) + (pair("k", 0, b"7") if i == 0 else b"")
        content = header(num_keys=4 if i == 0 else 3, num_tensors=1, pairs=pairs, tensors=tensor(text, (1,), 0, 0))
        content += bytes(-len(content) % 32) + struct.pack("<f", i)
        (folder / f"m-{i + 1:05d}-of-00003.gguf").write_bytes(content)
    return folder / "m-00001-of-00003.gguf"


def test_split_models_are_read_as_one(tmp_path: Path) -> None:
    with read_gguf(write_split(tmp_path)) as file:
        assert file.metadata.integer("k") == 55
        values = {name: file.read(tensor, 0, 4).view(np.float32)[0] for name, tensor in file.tensors.items()}
        assert values == {"a": 0.0, "b": 1.0, "c": 2.0}


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"must be 4 \(split.tensors.count\), got 3"):
        read_gguf(write_split(tmp_path, total=4))
    with pytest.raises(CompileError, match=r"m-00003-of-00003.gguf: .* in one part, got 'b', which is in part 2 too"):
        read_gguf(write_split(tmp_path, names=("a", "b", "b")))
    with pytest.raises(CompileError, match=r"must be m-00001-of-00002.gguf, so that"):
        read_gguf(write_split(tmp_path, counts=2))
    with pytest.raises(CompileError, match=r"split.count must be 0 to 999, got 1000"):
        read_gguf(write_split(tmp_path, counts=1000))
    first = write_split(tmp_path)
    third = tmp_path / "m-00003-of-00003.gguf"
    (tmp_path / "m-00002-of-00003.gguf").write_bytes(third.read_bytes())
    with pytest.raises(CompileError, match=r"00002-of-00003.gguf: file must be part 2 of 3, got part 3 of 3"):
        read_gguf(first)
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(CompileError, match=r"m-00002-of-00003.gguf: no such file"):
        read_gguf(first)


def test_the_first_part_must_be_given_under_its_name(tmp_path: Path) -> None:
    first = write_split(tmp_path)
    with pytest.raises(CompileError, match=r"part 1 of 3: give m-00001-of-00003.gguf, got part 2"):
        read_gguf(tmp_path / "m-00002-of-00003.gguf")
    renamed = first.rename(tmp_path / "model.gguf")
    with pytest.raises(CompileError, match=r"name of part 1 must be NAME-00001-of-00003.gguf, .* got model.gguf"):
        read_gguf(renamed)
