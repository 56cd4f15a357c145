"""Tokenizer files for GGML checkpoints, which carry the vocabulary of Llama as bytes and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mistralrs_onnx.compiler.errors import CompileError

from .external import read_external, with_ends
from .files import TokenizerFiles, special_texts, tokenizer_config, write_files
from .layout import Affixes, Json
from .sentencepiece import SPACE, sentencepiece_json
from .vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, Vocabulary

SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2; their texts are not in the file
NUM_BYTES = 256  # the tokens after those: one byte each


def ggml_files(
    tokens: Sequence[bytes],
    scores: Sequence[float] | None,
    *,
    external: Path | None = None,
    template: str | None = None,
) -> TokenizerFiles:
    """`tokens` and `scores` as the file has them, by id; without scores an external tokenizer is needed.

    `external`: a tokenizer.json, or a folder with one, whose tokens are those of the file. `template`: the chat
    template, before that of the folder. Raises CompileError for what is no vocabulary of Llama.
    """
    vocabulary = _vocabulary(tokens)
    special = special_texts(vocabulary)
    affixes = Affixes(special["bos_token"], None)
    outside = None if external is None else read_external(external, vocabulary)
    if outside is not None and template is None:
        template = outside.template
    tokenizer = outside.tokenizer if outside else _rebuilt(vocabulary, scores, affixes)
    files = write_files(tokenizer, tokenizer_config(special, affixes, None), special, template)
    return TokenizerFiles(files, with_ends(vocabulary.special_ids, outside.ends if outside else ()))


def _rebuilt(vocabulary: Vocabulary, scores: Sequence[float] | None, affixes: Affixes) -> Json:
    if scores is None:
        raise CompileError("the file has tokens without scores, which rank them: bring its tokenizer.json")
    return sentencepiece_json(vocabulary, scores, affixes, space_prefix=True)


def _vocabulary(tokens: Sequence[bytes]) -> Vocabulary:
    first = len(SPECIAL) + NUM_BYTES
    if len(tokens) < first:
        raise CompileError(f"a vocabulary of Llama has at least {first} tokens, got {len(tokens)}")
    letters = list(tokens[len(SPECIAL) : first])
    if letters != [bytes([byte]) for byte in range(NUM_BYTES)]:
        raise CompileError(
            f"tokens 3 to {first - 1} of a GGML file must be the 256 bytes: other tokenizers are not supported"
        )
    texts = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(NUM_BYTES))]
    texts += [_text(token, i) for i, token in enumerate(tokens[first:], first)]
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * NUM_BYTES
    kinds += [NORMAL if token else CONTROL for token in tokens[first:]]
    vocabulary = Vocabulary(texts, kinds, {"unk": 0, "bos": 1, "eos": 2})
    vocabulary.check()
    return vocabulary


def _text(token: bytes, i: int) -> str:
    try:
        return token.decode().replace(" ", SPACE) or f"[EMPTY_{i}]"
    except UnicodeDecodeError as error:
        raise CompileError(f"token {i} must be UTF-8, got {token[:40]!r}") from error
