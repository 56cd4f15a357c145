"""The subcommand `toml`: a file says which model, and maybe a smaller one that guesses for it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.selector import Selection, read_selector, select
from mistralrs_onnx.which import Chosen, Defaults, chosen, non_granular_index

from .command_line import SELECTOR
from .option import option, said

TEXT = "A model that a file names, as mistral.rs has them."
FILE = option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    required=True,
    help="TOML with a table [model]: model_id, or quantized_model_id and quantized_filename, and so on.",
)


class Selected(NamedTuple):
    """What a file says of running its model. `draft`: another one, which guesses `gamma` tokens for it."""

    tgt_non_granular_index: int | None = None
    repeat_last_n: int | None = None
    draft: Chosen | None = None
    gamma: int | None = None


def choose_selected(ctx: click.Context, defaults: Defaults) -> tuple[Chosen, Selected]:
    """`defaults`: what is said of any model. Raises CompileError."""
    selection = _read(ctx)
    which, draft = selection.which, None if selection.draft is None else chosen(selection.draft, defaults)
    return chosen(which, defaults), Selected(non_granular_index(which), which.repeat_last_n, draft, selection.gamma)


def _read(ctx: click.Context) -> Selection:
    """A configuration file was read already."""
    path, config = said(ctx)["file"], said(ctx).get("config")
    if path != config:
        return read_selector(path)
    try:
        return select(ctx.meta[SELECTOR])
    except CompileError as error:
        raise CompileError(f"{path}: {error}") from error
