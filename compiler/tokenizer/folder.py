"""Tokenizer files of a package, taken from a folder as Hugging Face lays it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.templates.find import MAX_TEMPLATE, template_of
from mistralrs_onnx.graphs.contract import TOKENIZER_CONFIG

from .ends import end_ids
from .files import SPECIAL_TOKENS_MAP, TokenizerFiles, to_json, write_files
from .json_files import read_object, read_optional, read_text
from .layout import Json
from .model_file import read_model_file
from .token_texts import added_texts, token_texts
from .tokenizer_file import TokenizerFile, read_tokenizer, read_tokenizer_config, text_of
from .vocabulary import SpecialIds

ROLES = ("bos", "eos", "unk", "pad")
CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"


def folder_files(folder: Path, *, tokenizer: Path | None = None, template: str | None = None) -> TokenizerFiles:
    """Raises CompileError, which names the file, for what is missing, contradictory or no JSON.

    `tokenizer`: a tokenizer.json, or a folder with one and the files that belong to it, before those of the folder.
    `template`: the chat template, before all others.
    """
    path = tokenizer or folder
    home = path if path.is_dir() else folder if folder.is_dir() else folder.parent
    config = read_tokenizer_config(home)
    roles = _role_texts(config) or _role_texts(read_optional(home / SPECIAL_TOKENS_MAP))
    found, source = _tokenizer(path, config, roles)
    if template is None:
        template = folder_template(home, config)
    kept = {key: value for key, value in config.items() if key not in ("chat_template", "added_tokens_decoder")}
    files = write_files(found.content, kept | roles, roles, template)
    return TokenizerFiles(files, _special_ids(folder if folder.is_dir() else home, found, source, roles))


def folder_template(folder: Path, config: Json) -> str | None:
    """The folder's chat template: in a file of its own, or in tokenizer_config.json."""
    if (file := folder / "chat_template.jinja").exists():
        return read_text(file, MAX_TEMPLATE)
    if config.get("chat_template") is not None:
        return template_of(config, folder / TOKENIZER_CONFIG)
    file = folder / "chat_template.json"
    return template_of(read_object(file), file) if file.exists() else None


def _tokenizer(place: Path, config: Json, roles: dict[str, str]) -> tuple[TokenizerFile, Path]:
    """`place`: a file or a folder. A tokenizer.model says its roles itself: they join `roles`."""
    path, model = (place / "tokenizer.json", place / "tokenizer.model") if place.is_dir() else (place, place)
    if place.suffix != ".model" and path.exists():
        return read_tokenizer(path, config), path
    if not model.exists():
        raise CompileError(f"{place} must hold tokenizer.json or tokenizer.model, got neither")
    built = read_model_file(model, config)
    roles |= built.roles | roles
    return TokenizerFile(to_json(built.tokenizer), built.tokenizer), model


def _role_texts(source: Json) -> dict[str, str]:
    texts = {f"{role}_token": text_of(source.get(f"{role}_token")) for role in ROLES}
    return {name: text for name, text in texts.items() if text is not None}


def _special_ids(folder: Path, tokenizer: TokenizerFile, path: Path, roles: Mapping[str, str]) -> SpecialIds:
    """Ends from every file; that of the tokenizer first, because chat templates mean it by `eos_token`."""
    texts = token_texts(tokenizer.values, path)
    ids = {text: token for token, text in texts.items()}
    for name in ("bos_token", "eos_token"):
        if name in roles and roles[name] not in ids:
            raise CompileError(f"{name} of {folder} must be a token, got {roles[name]!r}, which {path} lacks")
    named = [ids[roles["eos_token"]]] if "eos_token" in roles else []
    for name in (GENERATION_CONFIG, CONFIG):
        named += named_ids(folder / name, "eos_token_id", texts)
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
    return next(iter(named_ids(folder / CONFIG, f"{role}_token_id", dict.fromkeys(ids.values(), ""))), None)


def named_ids(path: Path, key: str, texts: Mapping[int, str]) -> Iterator[int]:
    """The id or ids that a file gives to a role. Raises CompileError for an id without token."""
    value = read_optional(path).get(key)
    for token in value if isinstance(value, list) else [] if value is None else [value]:
        if type(token) is not int or token not in texts:
            raise CompileError(f"{key} in {path} must name tokens of the tokenizer, got {token!r}")
        yield token
