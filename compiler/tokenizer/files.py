"""The tokenizer files of a package, the same whatever checkpoint they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import orjson

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.graphs.contract import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG

from .layout import Affixes, Json
from .vocabulary import SpecialIds, Vocabulary

SPECIAL_TOKENS_MAP = "special_tokens_map.json"


class TokenizerFiles(NamedTuple):
    """`files` maps the names of files in a package to what they hold."""

    files: dict[str, bytes]
    ids: SpecialIds


def write_files(
    tokenizer: Json | bytes, config: Json, special_tokens: Mapping[str, str], template: str | None
) -> dict[str, bytes]:
    """File name to content: equal arguments give equal bytes. `tokenizer` may be a tokenizer.json as it stands."""
    chat: Json = {} if template is None else {"chat_template": template}
    files = {
        TOKENIZER: tokenizer if isinstance(tokenizer, bytes) else to_json(tokenizer),
        TOKENIZER_CONFIG: to_json(config | chat),
        SPECIAL_TOKENS_MAP: to_json(dict(special_tokens)),
    }
    return files if template is None else files | {CHAT_TEMPLATE: template.encode()}


def tokenizer_config(special_tokens: Mapping[str, str], affixes: Affixes, max_length: int | None) -> Json:
    """What tokenizer_config.json says of a tokenizer that we rebuilt."""
    length = {} if max_length is None else {"model_max_length": max_length}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens,
        "add_bos_token": affixes.before is not None,
        "add_eos_token": affixes.after is not None,
        "clean_up_tokenization_spaces": False,
        **length,
    }


def special_texts(vocabulary: Vocabulary) -> dict[str, str]:
    """The texts of bos_token, eos_token, unk_token and pad_token, as far as there are such tokens."""
    roles = {**vocabulary.roles, "eos": vocabulary.special_ids.eos[0]}
    return {f"{role}_token": vocabulary.tokens[roles[role]] for role in ("bos", "eos", "unk", "pad") if role in roles}


def to_json(value: Json) -> bytes:
    """Raises CompileError for what others nested deeper than any reader would follow."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise CompileError(f"a file of the tokenizer cannot be written again: {error}") from error
