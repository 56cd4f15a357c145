"""Reads options from a TOML file, as defaults that click takes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import click

from .option import ABOUT, long_names, subject_of

SELECTOR = ("model", "speculative", "tokenizer_json", "repeat_last_n")  # what a file for `toml -f` has


class Config(NamedTuple):
    """`defaults`: of options, as click wants them. `selector`: which model, empty where the file does not say."""

    defaults: dict[str, Any]
    selector: dict[str, Any]


def read_config(path: Path, group: click.Group) -> Config:
    """Keys are long names of options, tables are those of a selector or named like subcommands. Raises UsageError."""
    content = read_toml(path)
    selector = {key: content.pop(key) for key in SELECTOR if key in content} if "model" in content else {}
    tables = {key: content.pop(key) for key in group.commands if isinstance(content.get(key), dict)}
    defaults = _defaults(content, group, str(path))
    for name, table in tables.items():
        defaults[name] = _defaults(table, group.commands[name], f"[{name}] in {path}")
    return Config(defaults, selector)


def read_toml(path: Path) -> dict[str, Any]:
    """Raises UsageError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8
        raise click.UsageError(f"{path} is no TOML: {error}") from error


def _defaults(table: Mapping[str, Any], command: click.Command, where: str) -> dict[str, Any]:
    """By names of parameters."""
    params = {name: param for param in settable(command) for name in long_names(param)}
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in params:
            near = get_close_matches(name, [*params, "model"], 1)
            raise click.UsageError(f"{where}: unknown key {key}" + (f", the nearest is {near[0]}" if near else ""))
        found[params[name].name or ""] = _as_typed(value, params[name], f"{where}: {key}")
    return found


def settable(command: click.Command) -> Iterator[click.Option]:
    """Options that a file may set."""
    for param in command.params:
        if isinstance(param, click.Option) and subject_of(param) != ABOUT:
            yield param


def _as_typed(value: Any, param: click.Option, where: str) -> Any:
    """As it would stand on the command line, so that nothing passes here that does not there."""
    if param.multiple and isinstance(value, list):
        return [_as_text(each, where) for each in value]
    if param.is_flag:
        if not isinstance(value, bool):
            raise click.UsageError(f"{where} must be true or false, got {value!r:.64}")
        return value
    return [_as_text(value, where)] if param.multiple else _as_text(value, where)


def _as_text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise click.UsageError(f"{where} must be a text or a number, got {value!r:.64}")
    return str(value)
