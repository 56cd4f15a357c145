"""`mistralrs-server`: a model behind an HTTP API, or in this terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal

import click

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.model import LoadOptions, load
from mistralrs_onnx.re_isq import re_isq
from mistralrs_onnx.runtime.errors import PackageError, RequestError
from mistralrs_onnx.server.lifecycle import Server, ServerOptions
from mistralrs_onnx.server.model import Model
from mistralrs_onnx.server.requantize import Requantize

from .checkpoints import checkpoint_options
from .failures import reported
from .interactive import chat
from .options import CompiledNow, Locate, add_models, chosen, run_options
from .progress import compile_progress

EXAMPLES = """
\b
Examples:
  mistralrs-server -p 8080 demo
  mistralrs-server --max-seqs 32 gguf -m ~/models -f model.Q4_1.gguf
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for, but for the model."""

    server: ServerOptions
    loading: LoadOptions
    interactive: bool


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mistralrs-onnx")
@click.option("-i", "--interactive-mode", "interactive", is_flag=True, help="Chat in this terminal, serve nothing.")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=1234,
    show_default=True,
    help="Port to serve on.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(0),
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="That running answers get when stopped.",
)
@click.option(
    "--generation-config",
    type=click.Choice(["auto", "none"]),
    metavar="auto|none",
    default="auto",
    show_default=True,
    help="auto: sample as the model recommends.",
)
@run_options
@checkpoint_options()
@click.pass_context
def main(
    ctx: click.Context,
    port: int,
    host: str,
    drain_timeout: float,
    generation_config: Literal["auto", "none"],
    *,
    interactive: bool,
) -> None:
    """Serve a language model over an OpenAI-compatible HTTP API, or chat with it (-i)."""
    loading = replace(chosen(ctx), generation_config=generation_config)
    ctx.obj = Wanted(ServerOptions(host, port, drain_timeout), loading, interactive)


def run(wanted: Wanted, locate: Locate) -> None:
    with reported():
        if wanted.interactive:
            with load(locate(), wanted.loading) as model:
                chat(model)
        else:
            serve(wanted, locate)


add_models(main, run)


def serve(wanted: Wanted, locate: Locate) -> None:
    options = wanted.server
    try:
        server = Server(
            lambda: load(locate(), wanted.loading),
            options,
            lambda model: click.echo(greeting(server.url, model)),
            quantizing(locate, wanted.loading) if isinstance(locate, CompiledNow) else None,
        )
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # what follows repeats the address
        message = f"cannot listen on {options.host}:{options.port}: {reason}. Choose another with --host and -p."
        raise click.ClickException(message) from error
    server.run()


def quantizing(checkpoint: CompiledNow, loading: LoadOptions) -> Requantize:
    """What /re_isq does: the checkpoint again, in another type."""

    def requantize(kind: str) -> Model:
        source, options = checkpoint.chosen
        try:
            with compile_progress(silent=False) as report:
                return re_isq(kind, source, options, loading, report)
        except CompileError as error:
            raise RequestError(str(error), param="ggml_type") from error
        except PackageError as error:
            raise RequestError(str(error), status=500, code="requantize_failed") from error

    return requantize


def greeting(url: str, model: Model) -> str:
    """Says where the server is, with a command to try it."""
    question, limit = "Why is the sky blue?", 64
    path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": question}], "max_tokens": limit}
    if model.chat_template is None:
        path, body = "/v1/completions", {"prompt": question, "max_tokens": limit}
    here = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    command = f"curl {here}{path} -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    return f"Serving on {url}\nTry: {command}"
