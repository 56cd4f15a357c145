"""Options that have tokens guessed, and checked by the model several at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from .command_line import is_selected
from .option import option, said

if TYPE_CHECKING:
    from mistralrs_onnx.speculate import SpeculateOptions

LOOKUP, DRAFT, GAMMA, FIXED = "--prompt-lookup", "--draft", "--gamma", "--fixed-gamma"
DEFAULT, LARGEST = 16, 64  # as SpeculateOptions has them, which is slow to import
SUBJECT = "Guessed tokens"

SPECULATE_OPTIONS = (
    option(
        LOOKUP,
        is_flag=True,
        subject=SUBJECT,
        help="Guess that text goes on as it did before: the same tokens, sooner.",
    ),
    option(
        DRAFT,
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="PACKAGE",
        subject=SUBJECT,
        help="A smaller model of the same vocabulary guesses.",
    ),
    option(
        GAMMA,
        type=click.IntRange(1, LARGEST),
        metavar="N",
        subject=SUBJECT,
        rare=True,
        show_default=str(DEFAULT),
        help=f"Tokens to guess in a step at most, up to {LARGEST}.",
    ),
    option(
        FIXED,
        is_flag=True,
        subject=SUBJECT,
        rare=True,
        help="Guess as many in every step, however many were wrong before.",
    ),
)


def speculate_options(ctx: click.Context) -> SpeculateOptions | None:
    """None where nothing is to be guessed, or a selector is yet to say. Raises UsageError for contradictions."""
    lookup, draft = said(ctx)["prompt_lookup"], said(ctx)["draft"]
    if lookup and draft is not None:
        return guessing(ctx, draft if _comes_first(ctx, "draft", "prompt_lookup") else "lookup")
    if lookup or draft is not None:
        return guessing(ctx, draft or "lookup")
    if not is_selected(ctx):
        check_nobody(ctx)
    return None


def _comes_first(ctx: click.Context, one: str, other: str) -> bool:
    """Of the command line, the environment and a file. Raises UsageError where both are from the same."""
    first, second = ctx.get_parameter_source(one), ctx.get_parameter_source(other)
    if first is None or second is None or first == second:
        raise click.UsageError(f"{LOOKUP} and {DRAFT} both guess tokens: leave one of them out")
    return bool(first.value < second.value)


def guessing(ctx: click.Context, draft: Path | Literal["lookup"], gamma: int | None = None) -> SpeculateOptions:
    """`gamma`: where the command line says none. Raises PackageError where it is too large or small."""
    from mistralrs_onnx.speculate import SpeculateOptions  # slow to import

    values = said(ctx)
    gamma = values.get("gamma") or gamma
    return SpeculateOptions(draft, DEFAULT if gamma is None else gamma, adaptive=not values.get("fixed_gamma", False))


def check_nobody(ctx: click.Context) -> None:
    """Raises UsageError for options of guesses."""
    for name, value in ((GAMMA, said(ctx).get("gamma")), (FIXED, said(ctx).get("fixed_gamma"))):
        if value:
            raise click.UsageError(f"{name} is of guesses, and nothing guesses: add {LOOKUP} or {DRAFT} PACKAGE")


def speculate_note(speculate: SpeculateOptions | None) -> str:
    """Who guesses, in a few words; none for nobody."""
    if speculate is None:
        return ""
    return "prompt lookup" if speculate.draft == "lookup" else f"draft {speculate.draft.name}"
