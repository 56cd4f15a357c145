"""The bytes that each token of a tokenizer writes, which may be part of a character only."""

from __future__ import annotations

import json

from tokenizers import Tokenizer

from .detokenizer import MARKS
from .errors import RequestError
from .grammar.vocabulary import SPACE, byte_reader


class TokenBytes:
    """Call it with a token's id; an id that the tokenizer does not know has no bytes.

    `special_ids`: of tokens that have a name, and are no part of an output's text. `strips_space`: text does not begin
    with the space that its first token has.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = {i: token.content.encode() for i, token in added.items()}
        self.special_ids = frozenset(i for i, token in added.items() if token.special and token.content not in MARKS)
        decoder = tokenizer.decoder
        self.strips_space = decoder is not None and decoder.decode([f"{SPACE}a"]) == "a"
        layout = {"decoder": None if decoder is None else json.loads(decoder.__getstate__())}
        try:
            self._read = byte_reader(layout)
        except RequestError:
            self._read = None  # the tokens of this tokenizer are no bytes

    def __call__(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id]
        name = self._tokenizer.id_to_token(token_id)
        if name is None:
            return b""
        if self._read is None:
            return str(self._tokenizer.decode([token_id], skip_special_tokens=False)).encode()
        text: bytes = self._read(name)
        return text


def spelled(data: bytes) -> str:
    """As OpenAI spells tokens that are no whole characters: bytes:\\xe2\\x80"""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
