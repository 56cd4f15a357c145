"""A small trained model: tokenizer.model as the SentencePiece library reads it, and as a GGUF file in llama.cpp."""

from __future__ import annotations

import io
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf as reference
import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.compiler.checkpoints.gguf import read_gguf
from mistralrs_onnx.compiler.tokenizer.folder import folder_files
from mistralrs_onnx.compiler.tokenizer.gguf import tokenizer_files

pytestmark = pytest.mark.oracle

USER_DEFINED = ["<tool>", "▁▁", "▁▁▁▁"]


class Trained(NamedTuple):
    model: bytes
    prefix: bool


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no prefix"])
def trained(request: pytest.FixtureRequest) -> Trained:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text_of("tarfile", "argparse").splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=2000,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=request.param,
        # with a prefix, SentencePiece finds the two spaces in its own and the first of a text, llama.cpp does not
        user_defined_symbols=USER_DEFINED[:1] if request.param else USER_DEFINED,
        character_coverage=1.0,
        minloglevel=2,
    )
    return Trained(model.getvalue(), request.param)


def text_of(*modules: str) -> str:
    folder = Path(sysconfig.get_path("stdlib"))
    return "".join((folder / f"{name}.py").read_text("utf-8") for name in modules)


def pieces() -> Iterator[str]:
    text = text_of("inspect", "typing") + "Zürich 你好 🚀🚀 <tool> x<tool>y     \n \t z" * 20
    return (text[start : start + 1000] for start in range(0, len(text), 1000))


def processor(model: bytes) -> Any:
    return pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=model)


def test_model_file(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained.model)
    files, ids = folder_files(tmp_path)
    assert ids == (1, (2,), None)
    ours, theirs = Tokenizer.from_str(files["tokenizer.json"].decode()), processor(trained.model)
    for text in pieces():
        # SentencePiece puts its prefix before a text only, llama.cpp (and we) also after an added token
        for part in split_at_added(text):
            assert ours.encode(part, add_special_tokens=False).ids == theirs.encode(part), repr(part)


def split_at_added(text: str) -> list[str]:
    return [part for part in text.split("<tool>") if part]


@pytest.mark.parametrize("parse_special", [True, False])
def test_gguf(trained: Trained, tmp_path: Path, parse_special: bool) -> None:
    path = write_gguf(processor(trained.model), tmp_path / "vocab.gguf", prefix=trained.prefix)
    model = pytest.importorskip("llama_cpp").Llama(str(path), vocab_only=True, verbose=False)
    ours = Tokenizer.from_str(tokenizer_files(read_gguf(path).metadata)["tokenizer.json"].decode())
    ours.encode_special_tokens = not parse_special
    for text in pieces():
        text += "</s> <s>x"
        expected = model.tokenize(text.encode(), add_bos=True, special=parse_special)
        assert ours.encode(text).ids == list(expected), repr(text)


def write_gguf(trained: Any, path: Path, *, prefix: bool) -> Path:
    """As converters do: spaces of user-defined tokens are spaces."""
    size = trained.get_piece_size()
    texts = [trained.id_to_piece(i) for i in range(size)]
    kinds = [kind_of(trained, i, texts[i]) for i in range(size)]
    writer = reference.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(
        [text.replace("▁", " ") if kind == 4 else text for text, kind in zip(texts, kinds, strict=True)]
    )
    writer.add_token_types(kinds)
    writer.add_token_scores([trained.get_score(i) for i in range(size)])
    writer.add_bool("tokenizer.ggml.add_space_prefix", prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def kind_of(trained: Any, i: int, text: str) -> int:
    """The token type of GGUF."""
    kinds = {
        reference.TokenType.UNKNOWN: trained.is_unknown(i),
        reference.TokenType.CONTROL: trained.is_control(i),
        reference.TokenType.USER_DEFINED: text in USER_DEFINED,
        reference.TokenType.BYTE: trained.is_byte(i),
    }
    return int(next((kind for kind, holds in kinds.items() if holds), reference.TokenType.NORMAL))
