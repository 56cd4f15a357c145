"""`mistralrs-server`: a model behind an HTTP API, or in this terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import click

from mistralrs_onnx.adapters import Adapters
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.model import LoadOptions, load
from mistralrs_onnx.re_isq import re_isq
from mistralrs_onnx.runtime.errors import PackageError, RequestError
from mistralrs_onnx.server.lifecycle import Server, ServerOptions
from mistralrs_onnx.server.model import Model

from .adapter_options import adapted
from .checkpoints import Commands, checkpoint_options
from .command_line import SETTINGS
from .failures import reported
from .interactive import chat
from .logs import set_up_logging
from .option import Command, decorated, option, said
from .options import CompiledNow, Locate, add_models, chosen, load_found, run_options
from .progress import compile_progress


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for, but for the model."""

    server: ServerOptions
    loading: LoadOptions
    interactive: bool


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
@click.pass_context
def main(ctx: click.Context) -> None:
    """Serve a language model over an OpenAI-compatible HTTP API."""
    set_up_logging()
    values, loading = said(ctx), chosen(ctx)
    if values["interactive_mode"] and values["log"] is not None:
        raise click.UsageError("--log is of requests to a server, and -i serves nothing: leave one of them out")
    engine = replace(loading.engine, truncate_sequence=values["truncate_sequence"])
    loading = replace(loading, engine=engine, generation_config=values["generation_config"])
    server = ServerOptions(values["host"], values["port"], values["drain_timeout"], log_file=values["log"])
    ctx.obj = Wanted(server, loading, interactive=values["interactive_mode"])


def run(wanted: Wanted, locate: Locate) -> None:
    with reported():
        if wanted.interactive:
            with load_found(locate, wanted.loading) as model:
                chat(model)
        else:
            serve(wanted, locate)


add_models(main, run)


def serve(wanted: Wanted, locate: Locate) -> None:
    options, loader = wanted.server, Loader(locate, wanted.loading)
    try:
        server = Server(
            loader.load,
            options,
            lambda model: click.echo(greeting(server.url, model)),
            loader.requantize if isinstance(locate, CompiledNow) else None,
        )
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # what follows repeats the address
        message = f"cannot listen on {options.host}:{options.port}: {reason}. Choose another with --host and -p."
        raise click.ClickException(message) from error
    server.run()


class Loader:
    """Loads a model, and then the same in other types; adapters go from one to the next, active or not."""

    def __init__(self, locate: Locate, loading: LoadOptions) -> None:
        self._locate = locate
        self._loading = loading
        self._adapters: Adapters | None = None

    def load(self) -> Model:
        found = self._locate()
        self._loading = adapted(self._loading, found)
        model = load(found.package, self._loading)
        self._adapters = model.adapters
        return model

    def requantize(self, kind: str) -> Model:
        """What /re_isq does: the checkpoint again, in another type. Raises RequestError."""
        assert isinstance(self._locate, CompiledNow)
        source, options = self._locate.chosen
        try:
            with compile_progress(silent=False) as report:
                return re_isq(kind, source, options, self._loading, report, self._adapters)
        except CompileError as error:
            raise RequestError(str(error), param="ggml_type") from error
        except PackageError as error:
            raise RequestError(str(error), status=500, code="requantize_failed") from error


def greeting(url: str, model: Model) -> str:
    """Says where the server is, with a command to try it."""
    question, limit = "Why is the sky blue?", 64
    path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": question}], "max_tokens": limit}
    if model.chat_template is None:
        path, body = "/v1/completions", {"prompt": question, "max_tokens": limit}
    here = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    command = f"curl {here}{path} -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    return f"Serving on {url}\nTry: {command}"
