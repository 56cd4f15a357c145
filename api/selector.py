"""Reads which model from a TOML file, as mistral.rs has it: the kind of a model shows in the keys that are there."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from mistralrs_onnx.compiler.errors import CompileError

from .which import AnyWhich, VisionArchitecture, Which

LARGEST = 1 << 20  # bytes of a file
GLOBAL = ("tokenizer_json", "repeat_last_n")
SHARED = (*GLOBAL, "dtype", "revision", "kind")
INTEGERS = ("gqa", "repeat_last_n", "tgt_non_granular_index", "gamma")
FILE = ("quantized_model_id", "quantized_filename")


class Keys(NamedTuple):
    """What a table must have for a kind of model, and what it may have beside what all may."""

    which: type[AnyWhich]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        return (*self.needed, *self.optional, *SHARED)


# Of kinds that the same keys fit, the first is meant, unless `_meant` knows better.
KINDS: Mapping[str, Keys] = {
    "plain": Keys(Which.Plain, ("model_id",), ("arch",)),
    "x-lora": Keys(Which.XLora, ("xlora_model_id",), ("order", "tgt_non_granular_index", "model_id", "arch")),
    "lora": Keys(Which.Lora, ("adapters_model_id",), ("order", "model_id", "arch")),
    "gguf": Keys(Which.GGUF, FILE, ("tok_model_id",)),
    "x-lora-gguf": Keys(
        Which.XLoraGGUF, (*FILE, "xlora_model_id"), ("order", "tok_model_id", "tgt_non_granular_index")
    ),
    "lora-gguf": Keys(Which.LoraGGUF, (*FILE, "adapters_model_id"), ("order", "tok_model_id")),
    "ggml": Keys(Which.GGML, FILE, ("tok_model_id", "gqa")),
    "x-lora-ggml": Keys(
        Which.XLoraGGML, (*FILE, "xlora_model_id"), ("order", "tok_model_id", "tgt_non_granular_index", "gqa")
    ),
    "lora-ggml": Keys(Which.LoraGGML, (*FILE, "adapters_model_id"), ("order", "tok_model_id", "gqa")),
    "vision-plain": Keys(Which.VisionPlain, ("model_id",), ("arch",)),
}
MODEL_KEYS = tuple(dict.fromkeys(key for keys in KINDS.values() for key in keys.known))
NAMES = ("model_id", *FILE, "xlora_model_id", "adapters_model_id")  # of which one at least is there
NULLABLE = ("tok_model_id", "order", "arch")  # a choice has no default for them


@dataclass(frozen=True, slots=True)
class Selection:
    """A model; `draft`: another that guesses tokens for it, at most `gamma` of a step where that is said."""

    which: AnyWhich
    draft: AnyWhich | None = None
    gamma: int | None = None


def read_selector(path: str | Path) -> Selection:
    """Paths in the file count from the working directory. Raises CompileError."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise CompileError(f"{path} has more than {LARGEST} bytes: it is no file that selects a model")
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CompileError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8
        raise CompileError(f"{path} is no TOML: {error}") from error
    try:
        return select(content)
    except CompileError as error:
        raise CompileError(f"{path}: {error}") from error


def select(content: Mapping[str, Any]) -> Selection:
    """Of the file's content. Raises CompileError."""
    _check_names(content, (*GLOBAL, "model", "speculative"), "the file")
    shared = {key: _checked(key, content[key], "the file") for key in GLOBAL if key in content}
    which = _which(_table(content, "model", ""), "model", shared)
    if "speculative" not in content:
        return Selection(which)
    speculative = _table(content, "speculative", "")
    _check_names(speculative, ("gamma", "draft_model"), "[speculative]")
    draft = _which(_table(speculative, "draft_model", "speculative."), "speculative.draft_model", shared)
    gamma = speculative.get("gamma")
    return Selection(which, draft, None if gamma is None else _checked("gamma", gamma, "[speculative]"))


def _table(content: Mapping[str, Any], name: str, above: str) -> Mapping[str, Any]:
    table = content.get(name)
    if not isinstance(table, dict):
        got = "" if table is None else f", got {table!r:.64}"
        raise CompileError(f"a table [{above}{name}] must say which model{got}")
    return table


def _which(table: Mapping[str, Any], name: str, shared: Mapping[str, Any]) -> AnyWhich:
    where = f"[{name}]"
    _check_names(table, MODEL_KEYS, where)
    said = {key: _checked(key, value, where) for key, value in table.items()}
    kind = said.pop("kind") if "kind" in said else _kind(said, where)
    keys = _keys(kind, where)
    if wrong := [key for key in said if key not in keys.known]:
        raise CompileError(f"conflicting fields in {where}: {wrong[0]} is not of kind {kind!r}; leave one of them out")
    if missing := [key for key in keys.needed if key not in said]:
        raise CompileError(f"{where} of kind {kind!r} lacks {' and '.join(missing)}")
    empty = {key: None for key in NULLABLE if key in keys.optional}
    return keys.which(**{**empty, **shared, **said})


def _keys(kind: str, where: str) -> Keys:
    if kind not in KINDS:
        raise CompileError(f"kind {kind!r:.64} in {where} is unknown, known: {', '.join(KINDS)}{_near(kind, KINDS)}")
    return KINDS[kind]


def _kind(said: Mapping[str, Any], where: str) -> str:
    """The kind of model that all keys fit, and that needs no other. Raises CompileError."""
    fitting = [kind for kind, keys in KINDS.items() if all(key in keys.known for key in said)]
    if not fitting:
        raise CompileError(_conflict(said, where))
    missing = {kind: [key for key in KINDS[kind].needed if key not in said] for kind in fitting}
    if whole := [kind for kind in fitting if not missing[kind]]:
        return _meant(whole, said)
    if not any(key in said for key in NAMES):
        raise CompileError(f"{where} names no model: give model_id, or quantized_model_id and quantized_filename")
    least = min(map(len, missing.values()))
    ways = dict.fromkeys(" and ".join(keys) for keys in missing.values() if len(keys) == least)
    raise CompileError(f"{where} lacks {' or '.join(ways)}")


def _meant(kinds: list[str], said: Mapping[str, Any]) -> str:
    """What only a value tells: the architecture of models that see, and the name of a file from before GGUF."""
    if "vision-plain" in kinds and said.get("arch") in list(VisionArchitecture):
        return "vision-plain"
    older = [kind for kind in kinds if kind.endswith("ggml")]
    return older[0] if older and _is_ggml(said.get("quantized_filename", "")) else kinds[0]


def _is_ggml(filename: str) -> bool:
    """As files were called: llama-2-7b.ggmlv3.q4_0.bin."""
    name = filename.lower()
    return not name.endswith(".gguf") and (name.endswith(".bin") or "ggml" in name)


def _conflict(said: Mapping[str, Any], where: str) -> str:
    for pair in combinations(said, 2):
        if not any(set(pair) <= set(keys.known) for keys in KINDS.values()):
            return f"conflicting fields {pair[0]} and {pair[1]} in {where}: no model has both, leave one of them out"
    return f"conflicting fields {', '.join(said)} in {where}: no model has all of them; say which with kind"


def _check_names(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise CompileError(f"{where} has an unknown key {key!r:.64}, known: {', '.join(known)}{_near(key, known)}")


def _checked(key: str, value: Any, where: str) -> Any:
    kind, word = (int, "an integer") if key in INTEGERS else (str, "a text")
    if type(value) is not kind:
        raise CompileError(f"{key} in {where} must be {word}, got {value!r:.64}")
    return value


def _near(word: str, known: Collection[str]) -> str:
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""
