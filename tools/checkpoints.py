"""Options that name a checkpoint, the same for every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def gguf_options(command: Command) -> Command:
    """`folder` and `filename` of a GGUF file."""
    where = click.Path(path_type=Path, exists=True, file_okay=False)
    file = click.option("-f", "--quantized-filename", "filename", required=True, help="GGUF file in that folder.")
    folder = click.option(
        "-m", "--quantized-model-id", "folder", type=where, required=True, help="Folder of the checkpoint."
    )
    return folder(file(command))
