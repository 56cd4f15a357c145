"""What in-situ quantization is asked for: names of types, and files that choose types by patterns of weight names."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from .errors import CompileError

GGML_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K")
BITS = {"2": "Q2_K", "3": "Q3_K", "4": "Q4_K", "5": "Q5_K", "6": "Q6_K", "8": "Q8_0"}
KEEP = "none"
DENSE_TYPES = {KEEP: KEEP, "f32": "F32", "f16": "F16", "bf16": "BF16"}
BLOCK_SIZES = (16, 32, 64, 128, 256)  # of int4 and int8
DEFAULT_BLOCK = 32  # the largest that gives a row the same bits alone and beside others, with 4 bits and with 8
OURS = re.compile(r"int([48])(?:-(\d+))?")

_BY_SPELLING = {name.replace("_", "").lower(): name for name in GGML_TYPES} | BITS


class Rule(NamedTuple):
    """Weights whose canonical names match the glob become `type`: a format, F32, F16, BF16, or none to keep them."""

    pattern: str
    type: str

    def matches(self, weight: str) -> bool:
        """`weight`: with or without `.weight`."""
        return fnmatchcase(weight.removesuffix(".weight"), self.pattern.removesuffix(".weight"))


def parse_type(text: str, block_size: int | None = None) -> str:
    """The format that `--isq` names: `q4k`, `Q4_K`, `4`, `int4`, `int8-64`. Raises CompileError."""
    ours = OURS.fullmatch(text.strip().lower())
    if ours:
        return _ours(text, int(ours[1]), ours[2], block_size)
    if block_size is not None:
        raise CompileError(f"a block size is for int4 and int8, {text} has its own: leave it out")
    spelling = text.strip().lower().replace("_", "")
    if spelling not in _BY_SPELLING:
        raise CompileError(_unknown(text, [*GGML_TYPES, *BITS, "int4", "int8"]))
    return _BY_SPELLING[spelling]


def parse_map_type(text: str) -> str:
    """As `parse_type`, and `f32`, `f16`, `bf16`, `none`."""
    dense = DENSE_TYPES.get(text.strip().lower())
    if dense is not None:
        return dense
    try:
        return parse_type(text)
    except CompileError as error:
        raise CompileError(f"{error}; or one of {', '.join(DENSE_TYPES)}") from None


def read_isq_map(path: Path) -> tuple[Rule, ...]:
    """Rules in the order of the file: `.json` and `.toml` map patterns to types, others hold lines `pattern type`.

    Raises CompileError that names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompileError(f"{path}: cannot be read: {error}") from error
    read = {".json": _read_json, ".toml": _read_toml}.get(path.suffix.lower(), _read_lines)
    try:
        rules = tuple(_rules(path, read(path, text)))
    except RecursionError:
        raise CompileError(f"{path}: nested too deeply: must be patterns and types") from None
    if not rules:
        raise CompileError(f"{path}: holds no rule: write lines such as `*.mlp.down_proj Q6_K`")
    return rules


class _Entry(NamedTuple):
    line: int
    pattern: str
    type: object


Read = Callable[[Path, str], Iterable[_Entry]]


def _rules(path: Path, entries: Iterable[_Entry]) -> Iterable[Rule]:
    for line, pattern, kind in entries:
        if not isinstance(kind, str):
            raise CompileError(f"{path}, line {line}: the type of {pattern!r} must be a string, got {kind!r}")
        try:
            yield Rule(pattern, parse_map_type(kind))
        except CompileError as error:
            raise CompileError(f"{path}, line {line}: {error}") from None


def _read_lines(path: Path, text: str) -> Iterable[_Entry]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise CompileError(f"{path}, line {number}: must be a pattern and a type, got {line.strip()!r}")
        yield _Entry(number, *words)


def _read_json(path: Path, text: str) -> Iterable[_Entry]:
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)  # keeps what is named twice, in order
    except json.JSONDecodeError as error:
        raise CompileError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(pairs, tuple):
        raise CompileError(f"{path}, line 1: must be an object of patterns and types")
    return [_Entry(_line_of(text, pattern), pattern, kind) for pattern, kind in pairs]


def _read_toml(path: Path, text: str) -> Iterable[_Entry]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CompileError(f"{path}: not TOML: {error}") from error  # the parser's text names the line
    for key, value in table.items():
        if isinstance(value, dict):
            raise CompileError(f"{path}, line {_line_of(text, key)}: patterns have dots, put {key}.… in quotes")
    return [_Entry(_line_of(text, pattern), pattern, kind) for pattern, kind in table.items()]


def _line_of(text: str, pattern: str) -> int:
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern in line), 1)


def _ours(text: str, bits: int, in_name: str | None, block_size: int | None) -> str:
    size = int(in_name) if in_name else block_size or DEFAULT_BLOCK
    if in_name and block_size not in (None, size):
        raise CompileError(f"{text} and block size {block_size} disagree: leave one of them out")
    if size not in BLOCK_SIZES:
        raise CompileError(f"the block size of int{bits} must be one of {', '.join(map(str, BLOCK_SIZES))}, got {size}")
    return f"int{bits}-{size}"


def _unknown(text: str, known: list[str]) -> str:
    nearest = get_close_matches(text.strip().upper(), known, n=1, cutoff=0)[0]
    return f"quantization type {text!r} is unknown, did you mean {nearest}? Known: {', '.join(known)}"
