"""Reads options from a TOML file, and prints which there are, each with where it came from, as such a file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from .option import ABOUT, given, long_names, subject_of, variable_set

SELECTOR = ("model", "speculative", "tokenizer_json", "repeat_last_n")  # what a file for `toml -f` has
SECRET = "literal:"


class Config(NamedTuple):
    """`defaults`: of options, as click wants them. `selector`: which model, empty where the file does not say."""

    defaults: dict[str, Any]
    selector: dict[str, Any]


def read_config(path: Path, group: click.Group) -> Config:
    """Keys are long names of options, tables are those of a selector or named like subcommands. Raises UsageError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8
        raise click.UsageError(f"{path} is no TOML: {error}") from error
    selector = {key: content.pop(key) for key in SELECTOR if key in content} if "model" in content else {}
    tables = {key: content.pop(key) for key in group.commands if isinstance(content.get(key), dict)}
    defaults = _defaults(content, group, str(path))
    for name, table in tables.items():
        defaults[name] = _defaults(table, group.commands[name], f"[{name}] in {path}")
    return Config(defaults, selector)


def _defaults(table: Mapping[str, Any], command: click.Command, where: str) -> dict[str, Any]:
    """By names of parameters."""
    params = {name: param for param in _settable(command) for name in long_names(param)}
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in params:
            near = get_close_matches(name, [*params, "model"], 1)
            raise click.UsageError(f"{where}: unknown key {key}" + (f", the nearest is {near[0]}" if near else ""))
        found[params[name].name or ""] = _as_typed(value, params[name], f"{where}: {key}")
    return found


def _settable(command: click.Command) -> Iterator[click.Option]:
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


def config_lines(ctx: click.Context, file: Path | None) -> Iterator[str]:
    """A configuration file that says all options of a command, and in comments why they are so."""
    lines = [_line(ctx, param, file) for param in _settable(ctx.command)]
    width = max(len(line) for line, _ in lines)
    for line, origin in lines:
        yield f"{line:{min(width, 40)}}  # {origin}"


def _line(ctx: click.Context, param: click.Option, file: Path | None) -> tuple[str, str]:
    """A key with its value, and where that came from."""
    name, value = long_names(param)[0], given(ctx, param)
    origin = _origin(ctx, param, file)
    if value in (None, (), []):
        hint = param.show_default if isinstance(param.show_default, str) else "nothing"
        return f"# {name}", f"{origin}: {hint}"
    return f"{name} = {_toml(value, param)}", origin


def _origin(ctx: click.Context, param: click.Option, file: Path | None) -> str:
    match ctx.get_parameter_source(param.name or ""):
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.ENVIRONMENT:
            return f"environment {variable_set(param)}"
        case ParameterSource.DEFAULT_MAP:
            return str(file)
        case _:
            return "default"


def _toml(value: Any, param: click.Option) -> str:
    """Tokens are not shown."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case list() | tuple() if param.multiple:
            return f"[{', '.join(_toml(each, param) for each in value)}]"
        case list() | tuple():
            return _toml(",".join(map(str, value)), param)
    text = str(value)
    if text.startswith(SECRET):
        text = f"{SECRET}***"
    return text if text.isdecimal() or (param.is_flag and text in ("true", "false")) else json.dumps(text)
