"""A model's tokens as bytes, and llguidance's view of them; knows no grammar."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from llguidance import LLTokenizer
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.errors import RequestError

SPACE = "\u2581"  # what SentencePiece writes for a space
# Tokens that get into a mask together where all of them may come, beside llguidance's own, which suit strings of JSON.
# Each is a part of a larger one, of which it has up to 10 characters: what only overlaps would be looked at twice.
WORDS = ("[a-z]{1,10}", " [a-z]{1,9}", "[a-zA-Z]{1,10}", " [a-zA-Z]{1,9}")


class TokenTable:
    """The bytes of each token, and text to tokens; what llguidance asks of a tokenizer, under its names.

    Special tokens and `eos_token_ids` have no text: no grammar can produce them, an end only where it may end.
    Neither has an id of the model that the tokenizer does not know. The text of a special token is made of others.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        """Raises RequestError (unsupported) for a tokenizer whose tokens are not bytes of text."""
        special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        names = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items()}
        vocabulary = {i: name for name, i in tokenizer.get_vocab(with_added_tokens=True).items() if i < vocab_size}
        to_bytes = byte_reader(json.loads(tokenizer.to_str()))
        self._encoder = _encoder(tokenizer)
        self.eos_token_id = min(eos_token_ids, default=None)
        texts = {i: names[i].encode() if i in names else to_bytes(name) for i, name in vocabulary.items()}
        unknown = set(range(vocab_size)) - {i for i, text in texts.items() if text}
        self.special_token_ids = sorted((special | set(eos_token_ids) | unknown) & set(range(vocab_size)))
        self.tokens = [texts.get(i) or b"<[%d]>" % i for i in range(vocab_size)]

    def __call__(self, text: str | bytes) -> list[int]:
        text = text if isinstance(text, str) else text.decode(errors="replace")
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids


def make_ll_tokenizer(tokenizer: Tokenizer, vocab_size: int, eos_token_ids: tuple[int, ...]) -> LLTokenizer:
    """llguidance's tokenizer over `vocab_size` tokens, as many as the model's logits. Takes a second for 150,000."""
    if not eos_token_ids:
        raise RequestError("the model has no end token, so no grammar can end", code="unsupported")
    table = TokenTable(tokenizer, vocab_size, eos_token_ids)
    slices = [*LLTokenizer.general_slices(), *WORDS]
    return LLTokenizer(table, eos_token=list(eos_token_ids), slices=slices)  # type: ignore[arg-type]  # asks for its own base class


def byte_reader(layout: Any) -> Any:
    """How names of tokens become bytes: letters that stand for bytes, or text with `<0x0A>` for single ones."""
    kinds = set(_kinds(layout.get("decoder")))
    if "ByteLevel" in kinds:
        return _byte_level
    if kinds & {"ByteFallback", "Metaspace"}:
        return _sentence_piece
    message = f"this model's tokenizer ({', '.join(sorted(kinds)) or 'no decoder'}) cannot be held to a grammar"
    raise RequestError(message, code="unsupported")


def _kinds(layer: Any) -> Iterator[str]:
    if isinstance(layer, dict):
        yield str(layer.get("type"))
        for inner in layer.get("decoders") or ():
            yield from _kinds(inner)


def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others for letters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


LETTERS = _byte_letters()


def _byte_level(name: str) -> bytes:
    """Names with other letters are no text of this tokenizer: no bytes."""
    return bytes(LETTERS[letter] for letter in name) if all(letter in LETTERS for letter in name) else b""


def _sentence_piece(name: str) -> bytes:
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes([int(name[3:5], 16)])
    return name.replace(SPACE, " ").encode()


def _encoder(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer for text from the middle: no space put before it, nothing cut or padded, no special tokens."""
    layout = json.loads(tokenizer.to_str())
    layout["truncation"] = layout["padding"] = layout["post_processor"] = None
    layout["normalizer"] = _without_prefix(layout["normalizer"])
    layout["pre_tokenizer"] = _without_prefix(layout["pre_tokenizer"])
    encoder: Tokenizer = Tokenizer.from_str(json.dumps(layout))
    encoder.encode_special_tokens = True
    return encoder


def _without_prefix(layer: Any) -> Any:
    if not isinstance(layer, dict):
        return layer
    inner = {key: [_without_prefix(x) for x in layer[key]] for key in ("normalizers", "pretokenizers") if key in layer}
    match layer["type"]:
        case "Prepend":
            return None
        case "Metaspace":
            return layer | {"prepend_scheme": "never"}
        case "ByteLevel":
            return layer | {"add_prefix_space": False}
    return layer | {key: [x for x in parts if x is not None] for key, parts in inner.items()}
