"""The subcommand `toml`: a file says which model, and maybe a smaller one that guesses for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from .option import option

if TYPE_CHECKING:
    from mistralrs_onnx.which import Chosen

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
