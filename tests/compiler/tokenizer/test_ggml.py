from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.tokenizer.ggml import ggml_files

BYTES = [bytes([byte]) for byte in range(256)]
WORDS = [b" ", b"h", b"i", b"hi", b" hi", "é".encode()]
TOKENS = [b" \xe2\x81\x87 ", b"", b"", *BYTES, *WORDS]
SCORES = [0.0] * 259 + [-float(i) for i in range(len(WORDS))]


def test_llama() -> None:
    files, ids = ggml_files(TOKENS, SCORES, template="t")
    assert ids == (1, (2,), None)
    assert files["chat_template.jinja"] == b"t"
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert tokenizer.encode("hi hié\n").ids == [1, 263, 263, 264, 3 + 10]
    assert tokenizer.encode("</s>", add_special_tokens=False).ids == [2]
    assert tokenizer.decode([263, 264, 3 + 10]) == "hié\n"


def test_an_external_tokenizer_replaces_scores(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(ggml_files(TOKENS, SCORES).files["tokenizer.json"])
    assert ggml_files(TOKENS, None, external=path).files["tokenizer.json"] == path.read_bytes()
    with pytest.raises(CompileError, match=r"token 264 is 'é' in .*tokenizer.json, but 'e' in the checkpoint"):
        ggml_files([*TOKENS[:-1], b"e"], None, external=path)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ggml_files(TOKENS[:258], SCORES[:258]), "at least 259 tokens, got 258"),
        (lambda: ggml_files(TOKENS[::-1], SCORES), "must be the 256 bytes"),
        (lambda: ggml_files([*TOKENS, b"\xff"], [*SCORES, 0.0]), r"token 265 must be UTF-8, got b'\\xff'"),
        (lambda: ggml_files(TOKENS, None), "tokens without scores"),
        (lambda: ggml_files(TOKENS, SCORES[:9]), "one score each: got 9"),
        (lambda: ggml_files([*TOKENS, b"hi"], [*SCORES, 0.0]), "must be distinct, got 'hi' twice"),
    ],
)
def test_other_vocabularies_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        build()
