"""`mistralrs-server`: a model behind an HTTP API, or in this terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .cli.checkpoints import Commands, checkpoint_options
from .cli.command_line import SETTINGS
from .cli.failures import reported
from .cli.logs import set_up_logging
from .cli.option import Command, decorated, option, said
from .cli.options import Locate, add_models, chosen, run_options

if TYPE_CHECKING:
    from .serving import Wanted

SERVING = "Serving"  # subject
SERVE_OPTIONS = (
    option("-i", "--interactive-mode", is_flag=True, subject=SERVING, help="Chat in this terminal, serve nothing."),
    option(
        "-p",
        "--port",
        type=click.IntRange(0, 65535),
        metavar="N",
        default=1234,
        subject=SERVING,
        help="Port to serve on; 0: any free one.",
    ),
    option(
        "--host", "--serve-ip", default="127.0.0.1", metavar="ADDRESS", subject=SERVING, help="Address to serve on."
    ),
    option(
        "-l",
        "--log",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        subject=SERVING,
        help="Write each request and answer to this file.",
    ),
    option(
        "-t",
        "--truncate-sequence",
        is_flag=True,
        subject=SERVING,
        rare=True,
        help="Prompts that are too long lose their beginning, instead of being refused.",
    ),
    option(
        "--generation-config",
        type=click.Choice(["auto", "none"]),
        default="auto",
        subject=SERVING,
        rare=True,
        help="auto: sample as the model recommends what requests do not say.",
    ),
    option(
        "--drain-timeout",
        type=click.FloatRange(0),
        metavar="SECONDS",
        default=30.0,
        subject=SERVING,
        rare=True,
        help="Time that running answers get when the server is stopped.",
    ),
)
EXAMPLES = """
\b
Examples:
  mistralrs-server -p 8080 demo
  mistralrs-server gguf -m ~/models -f model.Q4_K_M.gguf
  mistralrs-server --isq Q4K --max-seqs 32 plain -m Qwen/Qwen2.5-0.5B-Instruct
  mistralrs-server --config server.toml
"""


def serve_options(command: Command) -> Command:
    return decorated(command, SERVE_OPTIONS)


@click.group(cls=Commands, epilog=EXAMPLES, context_settings=SETTINGS)
@click.version_option(package_name="mistralrs-onnx")
@serve_options
@run_options
@checkpoint_options()
def main() -> None:
    """Serve a language model over an OpenAI-compatible HTTP API."""
    set_up_logging()


def read_wanted(ctx: click.Context) -> Wanted:
    """What is said before the subcommand. Raises UsageError for contradictions."""
    from mistralrs_onnx.server.lifecycle import ServerOptions  # slow to import

    from .serving import Wanted

    values, loading = said(ctx), chosen(ctx)
    is_log_typed = ctx.get_parameter_source("log") is ParameterSource.COMMANDLINE
    if values["interactive_mode"] and is_log_typed:
        raise click.UsageError("--log is of requests to a server, and -i serves nothing: leave one of them out")
    engine = replace(loading.engine, truncate_sequence=values["truncate_sequence"])
    loading = replace(loading, engine=engine, generation_config=values["generation_config"])
    server = ServerOptions(values["host"], values["port"], values["drain_timeout"], log_file=values["log"])
    return Wanted(server, loading, interactive=values["interactive_mode"])


def run(_: Any, locate: Locate) -> None:
    ctx = click.get_current_context()
    assert ctx.parent is not None
    with reported():
        from .serving import start  # slow to import

        start(read_wanted(ctx.parent), locate)


add_models(main, run)
