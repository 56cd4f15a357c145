"""Prints what is set, as a configuration file, and in its comments where that came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .config_file import SELECTOR, read_toml, settable
from .option import given, long_names, said, variable_set

SECRET = "literal:"

Line = tuple[str, str]  # of a file, and its comment


def config_lines(ctx: click.Context, inner: click.Context | None) -> Iterator[str]:
    """Options of a command, of its subcommand `inner`, and which model a file says. Raises UsageError."""
    lines = list(_options(ctx))
    if inner is not None:
        model, path = _model(inner)
        lines += [
            *_values(model, path),
            ("", ""),
            (f"[{inner.info_name}]", ""),
            *_options(inner),
            *_tables(model, path),
        ]
    width = max(len(line) for line, origin in lines if origin)
    for line, origin in lines:
        yield f"{line:{width}}  # {origin}" if origin else line


def _options(ctx: click.Context) -> Iterator[Line]:
    for param in settable(ctx.command):
        name, value = long_names(param)[0], given(ctx, param)
        if value in (None, (), []):
            hint = param.show_default if isinstance(param.show_default, str) else "nothing"
            yield f"# {name}", f"{_origin(ctx, param)}: {hint}"
        else:
            yield f"{name} = {_value(value, param)}", _origin(ctx, param)


def _origin(ctx: click.Context, param: click.Option) -> str:
    match ctx.get_parameter_source(param.name or ""):
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.ENVIRONMENT:
            return f"environment {variable_set(param)}"
        case ParameterSource.DEFAULT_MAP:
            return str(said(ctx)["config"])
        case _:
            return "default"


def _value(value: Any, param: click.Option) -> str:
    """As TOML. Tokens are not shown."""
    if param.multiple:
        return _toml([str(each) for each in value])
    if param.is_flag:
        return _toml(bool(param.type.convert(value, param, None)))
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    text = str(value)
    if text.startswith(SECRET):
        return _toml(f"{SECRET}***")
    return text if isinstance(value, int | float) or text.isdecimal() else _toml(text)


def _toml(value: Any) -> str:
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)


def _model(ctx: click.Context) -> tuple[dict[str, Any], str]:
    """What a file says of the model, and which file; nothing where the model is named otherwise."""
    if ctx.info_name != "toml":
        return {}, ""
    path: Path = said(ctx)["file"]
    return {key: value for key, value in read_toml(path).items() if key in SELECTOR}, str(path)


def _values(table: Mapping[str, Any], path: str) -> Iterator[Line]:
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{key} = {_toml(value)}", path


def _tables(table: Mapping[str, Any], path: str, above: str = "") -> Iterator[Line]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from (("", ""), (f"[{above}{key}]", ""))
            yield from _values(value, path)
            yield from _tables(value, path, f"{above}{key}.")
