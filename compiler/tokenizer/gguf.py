"""Tokenizer files of a package, rebuilt from the metadata of a GGUF file."""

from __future__ import annotations

import json
from typing import Any

from mistralrs_onnx.compiler.checkpoints.metadata import Metadata
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG

from .bpe import Affixes, bpe_json
from .profiles import Profile, find_profile
from .vocabulary import SpecialIds, Vocabulary, read_vocabulary

SPECIAL_TOKENS_MAP = "special_tokens_map.json"


def special_ids(metadata: Metadata) -> SpecialIds:
    return read_vocabulary(metadata).special_ids


def tokenizer_files(metadata: Metadata) -> dict[str, bytes]:
    """File name to content: equal metadata gives equal bytes. Raises CompileError for a tokenizer we cannot rebuild."""
    model = metadata.string("tokenizer.ggml.model")
    if model != "gpt2":
        raise CompileError(f"tokenizer model {model!r} is not supported yet, only 'gpt2' (byte-level BPE)")
    vocabulary = read_vocabulary(metadata)
    profile = find_profile(metadata.string("tokenizer.ggml.pre"))
    affixes = _affixes(metadata, vocabulary, profile)
    merges = metadata.strings("tokenizer.ggml.merges")
    files = {
        TOKENIZER: _json(bpe_json(vocabulary, merges, profile, affixes)),
        TOKENIZER_CONFIG: _json(_config(metadata, vocabulary, affixes)),
        SPECIAL_TOKENS_MAP: _json(_special_tokens(vocabulary)),
    }
    if "tokenizer.chat_template" in metadata:
        files[CHAT_TEMPLATE] = metadata.string("tokenizer.chat_template").encode()
    return files


def _affixes(metadata: Metadata, vocabulary: Vocabulary, profile: Profile) -> Affixes:
    before = "bos" if metadata.flag("tokenizer.ggml.add_bos_token", default=profile.adds_bos) else None
    after = "eos" if metadata.flag("tokenizer.ggml.add_eos_token", default=False) else None
    return Affixes(_role_text(vocabulary, before), _role_text(vocabulary, after))


def _role_text(vocabulary: Vocabulary, role: str | None) -> str | None:
    if role is None:
        return None
    if role not in vocabulary.roles:
        raise CompileError(f"tokenizer.ggml.add_{role}_token is set, but tokenizer.ggml.{role}_token_id is missing")
    return vocabulary.tokens[vocabulary.roles[role]]


def _special_tokens(vocabulary: Vocabulary) -> dict[str, str]:
    roles = {"eos": vocabulary.special_ids.eos[0], **vocabulary.roles}
    return {f"{role}_token": vocabulary.tokens[roles[role]] for role in ("bos", "eos", "unk", "pad") if role in roles}


def _config(metadata: Metadata, vocabulary: Vocabulary, affixes: Affixes) -> dict[str, Any]:
    architecture = metadata.string("general.architecture")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_special_tokens(vocabulary),
        "add_bos_token": affixes.before is not None,
        "add_eos_token": affixes.after is not None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.integer(f"{architecture}.context_length"),
    }
    if "tokenizer.chat_template" in metadata:
        config["chat_template"] = metadata.string("tokenizer.chat_template")
    return config


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
