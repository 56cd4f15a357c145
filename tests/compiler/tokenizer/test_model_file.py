from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.tokenizer.folder import folder_files

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
PIECES = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
    *(("▁", -1.0, NORMAL), ("h", -2.0, NORMAL), ("i", -3.0, NORMAL), ("▁hi", -4.0, NORMAL), ("hi", -5.0, NORMAL)),
    ("▁▁", 0.0, USER_DEFINED),
]
HI, A_HI, TWO_SPACES = 263, 262, 264


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def content(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float, kind: int) -> bytes:
    return content(1, text.encode()) + b"\x15" + struct.pack("<f", score) + integer(3, kind)


def model(trainer: bytes = integer(3, 2), normalizer: bytes = integer(4, 0)) -> bytes:
    """Of type BPE, which keeps white space; with the roles of Llama, which are the defaults."""
    pieces = b"".join(content(1, piece(*entry)) for entry in PIECES)
    return pieces + content(2, trainer) + content(3, normalizer)


def write(folder: Path, model_file: bytes, **config: Any) -> Path:
    (folder / "tokenizer.model").write_bytes(model_file)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_llama(tmp_path: Path) -> None:
    files, ids = folder_files(write(tmp_path, model()))
    assert ids == (1, (2,), None)
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert tokenizer.encode("hi hi\n").ids == [1, A_HI, A_HI, 3 + 10]
    assert tokenizer.encode("  hi", add_special_tokens=False).ids == [TWO_SPACES, A_HI]
    assert json.loads(files["tokenizer_config.json"])["eos_token"] == "</s>"


def test_the_normalizer_and_the_config_have_a_say(tmp_path: Path) -> None:
    folder = write(tmp_path, model(normalizer=integer(3, 0) + integer(4, 0)), add_bos_token=False, add_eos_token=True)
    tokenizer = Tokenizer.from_str(folder_files(folder).files["tokenizer.json"].decode())
    assert tokenizer.encode("hi").ids == [HI, 2]


def test_tokens_are_added(tmp_path: Path) -> None:
    added = {"265": {"content": "<tool>"}, "266": {"content": "<|im_end|>", "special": True}}
    files, ids = folder_files(write(tmp_path, model(), added_tokens_decoder=added, eos_token="<|im_end|>"))
    assert Tokenizer.from_str(files["tokenizer.json"].decode()).encode("hi<tool>").ids == [1, A_HI, 265]
    assert ids.eos == (266,)


@pytest.mark.parametrize(
    ("model_file", "message"),
    [
        (model(trainer=integer(3, 1)), r"must be a SentencePiece model of type BPE \(2\), got 1"),
        (model(normalizer=integer(4, 1)), "removes extra white space"),
        (model(normalizer=integer(4, 0) + content(2, b"map")), "normalizes characters"),
        (b"\x0a\xff\xff\xff\xff\x0f", "no SentencePiece model: field 1 is damaged at byte 6"),
        (b"\xff" * 20, "an integer is damaged at byte 0"),
        (b"\x0b", "field 1 is damaged"),
        (content(1, integer(1, 5)) + model(), "field 1 must not be an integer"),
        (content(1, content(1, b"\xff")) + model(), "no SentencePiece model: 'utf-8' codec can't decode"),
        (b"".join(integer(number, 0) for number in range(1, 1200)), "at most 1000 different fields"),
    ],
)
def test_what_is_no_such_model_is_refused(tmp_path: Path, model_file: bytes, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        folder_files(write(tmp_path, model_file))


def test_every_truncation_is_an_answer(tmp_path: Path) -> None:
    whole = model()
    for end in range(len(whole) - 200, len(whole)):
        (tmp_path / "tokenizer.model").write_bytes(whole[:end])
        with pytest.raises(CompileError):
            folder_files(tmp_path)


def test_gaps_between_added_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="must follow one another, got 270 at 265"):
        folder_files(write(tmp_path, model(), added_tokens_decoder={"270": {"content": "<tool>"}}))
