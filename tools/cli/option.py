"""Options that stand under a subject, are asked for by name, and may be set in the environment too."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from click.types import OptionHelpExtra

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

SAID, GIVEN = f"{__name__}.said", f"{__name__}.given"  # keys of a click context's notes
ANY, ABOUT = "Options", "Configuration and help"  # subjects
NUMBERS = {click.IntRange: "whole number", click.FloatRange: "number"}  # what mistakes call them


class Option(click.Option):
    """An option that no function takes: whoever needs it asks `said`.

    `subject`: what --help-all lists it under. `rare`: --help leaves it out.
    """

    def __init__(self, *args: Any, subject: str = ANY, rare: bool = False, **rest: Any) -> None:
        super().__init__(*args, expose_value=False, **{"callback": _as_it_is, **rest})
        self.subject = subject
        self.rare = rare
        for kind, name in NUMBERS.items():
            if isinstance(self.type, kind):
                self.type.name = name

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        processed = super().process_value(ctx, value)
        is_default = ctx.get_parameter_source(self.name or "") is ParameterSource.DEFAULT
        ctx.meta.setdefault(SAID, {})[self.name] = processed
        ctx.meta.setdefault(GIVEN, {})[self] = processed if is_default else value
        return processed

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        """Without the bounds of numbers, which whoever exceeds them reads."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        return extra


def _as_it_is(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """What click has for no value reaches callbacks as None, and others not so."""
    return value


def option(*names: str, **rest: Any) -> Decorator:
    """As click.option, of class Option."""
    return click.option(*names, cls=Option, **rest)


def decorated(command: Command, options: Sequence[Decorator]) -> Command:
    """With options, which are shown in this order."""
    for each in reversed(options):
        command = each(command)
    return command


def said(ctx: click.Context) -> dict[str, Any]:
    """Values by names of parameters, of a command and of those around it."""
    values: dict[str, Any] = ctx.meta.setdefault(SAID, {})
    return values


def given(ctx: click.Context, param: click.Parameter) -> Any:
    """A value as it was written, where it was written."""
    if isinstance(param, Option):
        return ctx.meta[GIVEN][param]
    return ctx.params.get(param.name or "")


def subject_of(param: click.Parameter) -> str:
    if isinstance(param, Option):
        return param.subject
    return ABOUT if param.is_eager else ANY


def long_names(param: click.Parameter) -> list[str]:
    """Without dashes before them."""
    return [name.removeprefix("--") for name in param.opts if name.startswith("--")]


def name_variables(command: click.Command) -> None:
    """MISTRALRS_MAX_SEQS for --max-seqs; none for options that only print something."""
    for param in command.params:
        if isinstance(param, click.Option) and subject_of(param) != ABOUT:
            param.envvar = [variable(name) for name in long_names(param)]


def variable(name: str) -> str:
    return f"MISTRALRS_{name.replace('-', '_').upper()}"


def variable_set(param: click.Parameter) -> str:
    """The variable that an option was read from."""
    return next(name for name in param.envvar or () if os.environ.get(name))
