"""Groups of commands: options come from the command line, the environment or a file, and help shows the usual ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .config_file import read_config
from .failures import ended_as_interrupted, reported
from .option import ABOUT, ANY, Option, name_variables, said, subject_of, variable, variable_set
from .print_config import config_lines

SELECTOR, EVERYTHING = f"{__name__}.selector", f"{__name__}.everything"  # keys of a click context's notes
COMMAND_PATH = "COMMAND_PATH"  # in the end of a page of help: what was typed to get it
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
ELSEWHERE = (
    "Options may be set in the environment (MISTRALRS_MAX_SEQS=4 is --max-seqs 4, MISTRALRS_VERIFY=1 is --verify) and "
    "in a TOML file that --config names (max-seqs = 4, verify = true; a table [gguf] has options of the subcommand "
    "gguf, and [model] names a model as for toml). The command line comes before the environment, and that before the "
    "file. --print-config shows what comes of it."
)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and isinstance(ctx.command, click.Group):
        config = read_config(path, ctx.command)
        ctx.default_map = config.defaults
        if config.selector:
            ctx.meta[SELECTOR] = config.selector
            config.defaults["toml"] = {**config.defaults.get("toml", {}), "file": path}
    return path


def _show_everything(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[EVERYTHING] = True
        click.echo(ctx.get_help())
        ctx.exit()


FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
CONFIG = Option(
    ["--config"],
    type=FILE,
    metavar="FILE",
    is_eager=True,
    envvar=variable("config"),
    callback=_read_config,
    subject=ABOUT,
    help="TOML file with options, and maybe the model.",
)
PRINT_CONFIG = Option(
    ["--print-config"], is_flag=True, subject=ABOUT, rare=True, help="Show each option's value and origin, and end."
)
HELP_ALL = Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    callback=_show_everything,
    subject=ABOUT,
    help="Show all options, and where else they may be set.",
)


class Subcommand(click.Command):
    """A command of a Group."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with origin_of_mistakes(ctx), places_of_options(ctx, tuple(args)):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        print_if_asked(ctx)
        with reported(), ended_as_interrupted():
            return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, but for COMMAND_PATH."""
        if self.epilog:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(cleandoc(self.epilog).replace(COMMAND_PATH, ctx.command_path))


class Command(Subcommand):
    """Has a page of help with the usual options and one with all, and reads them from everywhere."""

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.params += [CONFIG, PRINT_CONFIG, HELP_ALL]
        name_variables(self)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        divide = by_subject if ctx.meta.get(EVERYTHING, False) else usual
        for title, params in divide(self.get_params(ctx)).items():
            with formatter.section(title):
                formatter.write_dl([record for each in params if (record := each.get_help_record(ctx))])
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if ctx.meta.get(EVERYTHING, False):
            formatter.write_paragraph()
            formatter.write_text(ELSEWHERE)


class Group(Command, click.Group):
    """A file given with --config that says which model makes a subcommand unnecessary: it is `toml` then."""

    command_class = Subcommand

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest, invoke_without_command=True, no_args_is_help=False)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        super().add_command(cmd, name)
        name_variables(cmd)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_empty = not args
        rest = super().parse_args(ctx, args)
        if is_empty and SELECTOR not in ctx.meta and not ctx.resilient_parsing:
            raise click.exceptions.NoArgsIsHelpError(ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Runs `toml` where a file says which model, and no subcommand does."""
        with reported(), ended_as_interrupted():
            result = click.Group.invoke(self, ctx)
        if ctx.invoked_subcommand is not None:
            return result
        if SELECTOR in ctx.meta:
            with self.commands["toml"].make_context("toml", [], parent=ctx) as inner:
                return inner.command.invoke(inner)
        print_if_asked(ctx)
        return ctx.fail("Missing command.")


def example(words: str) -> str:
    """The end of a page of help. `words`: what follows the command."""
    return f"\b\nExample:\n  {COMMAND_PATH} {words}".rstrip()


def is_selected(ctx: click.Context) -> bool:
    """Whether a selector says which model, as far as a group knows before its subcommand runs."""
    return ctx.invoked_subcommand == "toml" or (ctx.invoked_subcommand is None and SELECTOR in ctx.meta)


def usual(params: Sequence[click.Parameter]) -> dict[str, list[click.Parameter]]:
    """What is about the command itself comes last."""
    shown = [each for each in params if not (isinstance(each, Option) and each.rare)]
    return {ANY: sorted(shown, key=lambda each: subject_of(each) == ABOUT)}


def by_subject(params: Sequence[click.Parameter]) -> dict[str, list[click.Parameter]]:
    """As `usual`."""
    found: dict[str, list[click.Parameter]] = {}
    for each in params:
        found.setdefault(subject_of(each), []).append(each)
    about = found.pop(ABOUT)
    return {**found, ABOUT: about}


def print_if_asked(ctx: click.Context) -> None:
    """Options of the group, and of the subcommand if there is one."""
    if not said(ctx).get(PRINT_CONFIG.name):
        return
    outer = ctx if isinstance(ctx.command, Command) or ctx.parent is None else ctx.parent
    click.echo("\n".join(config_lines(outer, None if outer is ctx else ctx)))
    ctx.exit()


@contextmanager
def origin_of_mistakes(ctx: click.Context) -> Iterator[None]:
    """Says where a value was found that is none, unless it is on the command line."""
    try:
        yield
    except click.BadParameter as error:
        if error.param is None or not (origin := _origin(ctx, error.param)):
            raise
        raise click.BadParameter(f"{error.message.rstrip('.')} (from {origin})", error.ctx, error.param) from error


@contextmanager
def places_of_options(ctx: click.Context, words: Sequence[str]) -> Iterator[None]:
    """Says of an option that stands before its subcommand, or behind it, where it belongs."""
    try:
        yield
    except click.NoSuchOption as error:
        if place := _place(ctx, error.option_name, words):
            raise click.UsageError(f"{error.option_name} {place}", ctx) from error
        raise


def _place(ctx: click.Context, name: str, words: Sequence[str]) -> str:
    if isinstance(ctx.command, click.Group):
        places = [place for place, command in ctx.command.commands.items() if not command.hidden]
        found = {place: written for place in places if (written := _written(ctx, ctx.command.commands[place], name))}
        place = next((word for word in words if word in found), next(iter(found), ""))
        return place and f"stands behind the subcommand: {ctx.command_path} {place} {found[place]}"
    if ctx.parent is None or not (written := _written(ctx, ctx.parent.command, name)):
        return ""
    return f"stands before the subcommand: {ctx.parent.command_path} {written} {ctx.info_name}"


def _written(ctx: click.Context, command: click.Command, name: str) -> str:
    """An option with what it takes; empty where a command has none of that name."""
    found = [each for each in command.params if isinstance(each, click.Option) and name in each.opts]
    if not found:
        return ""
    return name if found[0].is_flag else f"{name} {found[0].make_metavar(ctx)}"


def _origin(ctx: click.Context, param: click.Parameter) -> str:
    match ctx.get_parameter_source(param.name or ""):
        case ParameterSource.ENVIRONMENT:
            return variable_set(param)
        case ParameterSource.DEFAULT_MAP:
            return str(said(ctx)[CONFIG.name])
        case _:
            return ""
