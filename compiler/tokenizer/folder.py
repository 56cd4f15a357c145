"""Tokenizer files of a package, taken from a folder as Hugging Face lays it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.templates.find import MAX_TEMPLATE, template_of

from .ends import end_ids
from .files import TokenizerFiles, to_json, write_files
from .json_files import read_object, read_optional, read_text
from .layout import Json
from .model_file import read_model_file
from .token_texts import added_texts, token_texts
from .tokenizer_file import TokenizerFile, read_tokenizer
from .vocabulary import SpecialIds

ROLES = ("bos", "eos", "unk", "pad")
CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"


def folder_files(folder: Path, *, template: str | None = None) -> TokenizerFiles:
    """Raises CompileError, which names the file, for what is missing, contradictory or no JSON.

    `template`: the chat template, before that of the folder.
    """
    config = read_optional(folder / TOKENIZER_CONFIG)
    roles = _role_texts(config) or _role_texts(read_optional(folder / "special_tokens_map.json"))
    tokenizer, path = _tokenizer(folder, config, roles)
    if template is None:
        template = folder_template(folder, config)
    kept = {key: value for key, value in config.items() if key not in ("chat_template", "added_tokens_decoder")}
    files = write_files(tokenizer.content, kept | roles, roles, template)
    return TokenizerFiles(files, _special_ids(folder, tokenizer, path, roles))


def folder_template(folder: Path, config: Json) -> str | None:
    """The folder's chat template: in a file of its own, or in tokenizer_config.json."""
    if (file := folder / "chat_template.jinja").exists():
        return read_text(file, MAX_TEMPLATE)
    if config.get("chat_template") is not None:
        return template_of(config, folder / TOKENIZER_CONFIG)
    file = folder / "chat_template.json"
    return template_of(read_object(file), file) if file.exists() else None


def _tokenizer(folder: Path, config: Json, roles: dict[str, str]) -> tuple[TokenizerFile, Path]:
    """A tokenizer.model says its roles itself: they join `roles`."""
    path, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if path.exists():
        return read_tokenizer(path, config), path
    if not model.exists():
        raise CompileError(f"{folder} must hold tokenizer.json or tokenizer.model, got neither")
    built = read_model_file(model, config)
    roles |= built.roles | roles
    return TokenizerFile(to_json(built.tokenizer), built.tokenizer), model


def _role_texts(source: Json) -> dict[str, str]:
    """bos_token, eos_token, unk_token and pad_token, each a text or an object with one."""
    values = {f"{role}_token": source.get(f"{role}_token") for role in ROLES}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _special_ids(folder: Path, tokenizer: TokenizerFile, path: Path, roles: Mapping[str, str]) -> SpecialIds:
    """Ends from every file; that of the tokenizer first, because chat templates mean it by `eos_token`."""
    texts = token_texts(tokenizer.values, path)
    ids = {text: token for token, text in texts.items()}
    for name in ("bos_token", "eos_token"):
        if name in roles and roles[name] not in ids:
            raise CompileError(f"{name} of {folder} must be a token, got {roles[name]!r}, which {path} lacks")
    named = [ids[roles["eos_token"]]] if "eos_token" in roles else []
    for name in (GENERATION_CONFIG, CONFIG):
        named += _named_ids(folder / name, "eos_token_id", texts)
    ends = end_ids(named, added_texts(tokenizer.values, path))
    if not ends:
        raise CompileError(f"no file in {folder} names an eos_token: nothing would end a reply")
    return SpecialIds(_role_id(folder, "bos", ids, roles), ends, ids.get(roles.get("pad_token", "")))


def _role_id(folder: Path, role: str, ids: Mapping[str, int], roles: Mapping[str, str]) -> int | None:
    """config.json has a say only where no file speaks of the tokenizer's roles."""
    if f"{role}_token" in roles:
        return ids[roles[f"{role}_token"]]
    if roles:
        return None
    return next(iter(_named_ids(folder / CONFIG, f"{role}_token_id", dict.fromkeys(ids.values(), ""))), None)


def _named_ids(path: Path, key: str, texts: Mapping[int, str]) -> Iterator[int]:
    """The id or ids that a file gives to a role. Raises CompileError for an id without token."""
    value = read_optional(path).get(key)
    for token in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(token, int) or token not in texts:
            raise CompileError(f"{key} in {path} must name tokens of the tokenizer, got {token!r}")
        yield token
