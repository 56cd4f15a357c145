"""Reads tokenizer.model, the file of the SentencePiece trainer, as far as a BPE tokenizer needs it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mistralrs_onnx.compiler.errors import CompileError

from .json_files import read_file
from .layout import Affixes, Json
from .protobuf import Message, WireError
from .sentencepiece import SPACE, sentencepiece_json
from .tokenizer_file import config_tokens
from .vocabulary import CONTROL, NORMAL, USER_DEFINED, Vocabulary

MAX_MODEL = 16 << 20  # bytes; Gemma's has 5 MB
# Field numbers of sentencepiece_model.proto.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE_TEXT, PIECE_SCORE, PIECE_TYPE = 1, 2, 3
MODEL_TYPE, BPE = 3, 2
ROLE_FIELDS = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}  # number, id where the file has none
CHARSMAP, DUMMY_PREFIX, REMOVE_SPACES = 2, 3, 4


class ModelFile(NamedTuple):
    """The tokenizer.json that the file means, and the texts of the roles that it names."""

    tokenizer: Json
    roles: dict[str, str]


class _Piece(NamedTuple):
    text: str
    score: float
    type: int


def read_model_file(path: Path, config: Json) -> ModelFile:
    """`config`: tokenizer_config.json, whose added tokens follow. Raises CompileError for other kinds of model."""
    content = read_file(path, MAX_MODEL)
    try:
        return _build(Message(content), config, path)
    except (WireError, UnicodeDecodeError) as error:
        raise CompileError(f"{path} is no SentencePiece model: {error}") from error


def _build(model: Message, config: Json, path: Path) -> ModelFile:
    trainer, normalizer = model.message(TRAINER), model.message(NORMALIZER)
    _check_kind(trainer, normalizer, path)
    pieces = [_piece(message) for message in model.messages(PIECES)]
    vocabulary = _vocabulary(pieces, trainer, config, path)
    texts = {role: vocabulary.tokens[token] for role, token in vocabulary.roles.items()}
    scores = [piece.score for piece in pieces] + [0.0] * (len(vocabulary.tokens) - len(pieces))
    prefix = bool(normalizer.integer(DUMMY_PREFIX, 1))
    affixes = Affixes(
        texts.get("bos") if config.get("add_bos_token", True) else None,
        texts.get("eos") if config.get("add_eos_token", False) else None,
    )
    tokenizer = sentencepiece_json(vocabulary, scores, affixes, space_prefix=prefix)
    return ModelFile(tokenizer, {f"{role}_token": text for role, text in texts.items()})


def _check_kind(trainer: Message, normalizer: Message, path: Path) -> None:
    if (kind := trainer.integer(MODEL_TYPE, 1)) != BPE:
        raise CompileError(f"{path} must be a SentencePiece model of type BPE (2), got {kind}: bring a tokenizer.json")
    if normalizer.text(CHARSMAP):
        raise CompileError(f"{path} normalizes characters, which is not supported: bring a tokenizer.json")
    if normalizer.integer(REMOVE_SPACES, 1):
        raise CompileError(f"{path} removes extra white space, which is not supported: bring a tokenizer.json")


def _piece(message: Message) -> _Piece:
    text = message.text(PIECE_TEXT).decode()
    kind = message.integer(PIECE_TYPE, NORMAL)
    return _Piece(text.replace(SPACE, " ") if kind == USER_DEFINED else text, message.number(PIECE_SCORE), kind)


def _vocabulary(pieces: list[_Piece], trainer: Message, config: Json, path: Path) -> Vocabulary:
    tokens, types = [piece.text for piece in pieces], [piece.type for piece in pieces]
    for token in config_tokens(config):
        if token["id"] < len(pieces):
            continue
        if token["id"] != len(tokens):
            raise CompileError(f"tokens added to {path} must follow one another, got {token['id']} at {len(tokens)}")
        tokens.append(token["content"])
        types.append(CONTROL if token["special"] else USER_DEFINED)
    roles = {role: trainer.integer(number, default) for role, (number, default) in ROLE_FIELDS.items()}
    vocabulary = Vocabulary(tokens, types, {role: token for role, token in roles.items() if token >= 0})
    vocabulary.check()
    return vocabulary
