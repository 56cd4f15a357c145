"""Options that have tokens guessed, and checked by the model several at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mistralrs_onnx.speculate import LARGEST_DRAFT, SpeculateOptions

from .params import Pair

GATHERED = f"{__name__}.gathered"  # key of a click context's notes
LOOKUP, DRAFT, GAMMA = "--prompt-lookup", "--draft", "--gamma"
DEFAULT = SpeculateOptions("lookup").gamma


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    ctx.meta.setdefault(GATHERED, {})[param.opts[0]] = value


SPECULATE_OPTIONS = (
    click.option(
        LOOKUP,
        is_flag=True,
        help="Guess that text goes on as it did before: the same tokens, sooner.",
        expose_value=False,
        callback=_keep,
    ),
    click.option(
        DRAFT,
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        cls=Pair,
        metavar=f" PACKAGE, {GAMMA} N",
        help=f"A smaller model guesses; up to N of a step.  [default: {DEFAULT}]",
        expose_value=False,
        callback=_keep,
    ),
    click.option(GAMMA, type=click.IntRange(1, LARGEST_DRAFT), hidden=True, expose_value=False, callback=_keep),
)


def speculate_options(ctx: click.Context) -> SpeculateOptions | None:
    """None where nothing is to be guessed. Raises UsageError for options that do not go together."""
    said = ctx.meta[GATHERED]
    lookup, draft, gamma = said[LOOKUP], said[DRAFT], said[GAMMA]
    if lookup and draft is not None:
        raise click.UsageError(f"{LOOKUP} and {DRAFT} both guess tokens: leave one of them out")
    if not lookup and draft is None:
        if gamma is not None:
            raise click.UsageError(f"{GAMMA} bounds guesses, and nothing guesses: add {LOOKUP} or {DRAFT} PACKAGE")
        return None
    return SpeculateOptions("lookup" if lookup else draft, gamma or DEFAULT)


def speculate_note(speculate: SpeculateOptions | None) -> str:
    """Who guesses, in a few words; none for nobody."""
    if speculate is None:
        return ""
    return "prompt lookup" if speculate.draft == "lookup" else f"draft {speculate.draft.name}"
