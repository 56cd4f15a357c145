"""The bytes of single tokens, of tokenizers of every kind."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models

from mistralrs_onnx.runtime.token_bytes import TokenBytes, spelled


def tokenizer(names: list[str], decoder: decoders.Decoder | None) -> Tokenizer:
    made = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    if decoder is not None:
        made.decoder = decoder
    made.add_special_tokens(["<s>", "</think>"])
    made.add_tokens([AddedToken("<x y>")])
    return made


def test_letters_that_stand_for_bytes() -> None:
    read = TokenBytes(tokenizer(["Ġa", "ð", "Ł"], decoders.ByteLevel()))
    assert [read(i) for i in range(7)] == [b" a", b"\xf0", b"\x9f", b"<s>", b"</think>", b"<x y>", b""]
    assert read.special_ids == {3}  # the mark of thoughts is part of the text
    assert not read.strips_space


def test_sentence_piece() -> None:
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    read = TokenBytes(tokenizer(["▁a", "<0xF0>", "é"], decoders.Sequence(parts)))
    assert [read(i) for i in range(4)] == [b" a", b"\xf0", "é".encode(), b"<s>"]
    assert read.strips_space
    assert TokenBytes(tokenizer(["▁a"], decoders.Metaspace())).strips_space


def test_tokens_that_are_no_bytes_are_what_they_decode_to() -> None:
    read = TokenBytes(tokenizer(["ab", "Ġc"], None))
    assert [read(i) for i in range(3)] == [b"ab", "Ġc".encode(), b"<s>"]


def test_tokens_that_are_no_whole_characters_are_spelled() -> None:
    assert spelled("é".encode()) == "é"
    assert spelled(b"\xe2\x80") == "bytes:\\xe2\\x80"
