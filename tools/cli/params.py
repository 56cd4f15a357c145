"""What arguments of options may look like, beyond what click knows."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)


class Size(click.ParamType[int]):
    """Bytes: 4GiB, 500MB, 1048576."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size: write it like 4GiB, 500MB or 1048576", param, ctx)
        number, prefix, binary = match.groups()
        return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


class Module(click.ParamType[tuple[str, Path]]):
    """NAME=FOLDER."""

    name = "module"
    envvar_list_splitter = os.pathsep

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        name, equals, folder = str(value).partition("=")
        if not name or not equals or not folder:
            self.fail(f"{value!r} must be a name and a folder, like sql=adapters/sql", param, ctx)
        path = Path(folder).expanduser()
        if not path.is_dir():
            self.fail(f"{folder}: no such folder", param, ctx)
        return name, path


def by_name(option: str, modules: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Raises UsageError for a name that was given twice."""
    found = dict(modules)
    if len(found) < len(modules):
        raise click.UsageError(f"{option} has a name twice: give each adapter its own")
    return found
