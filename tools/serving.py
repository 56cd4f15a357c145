"""Serves a model, or talks with it in this terminal; slow to import, so help does without it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from threading import Event

import click

from mistralrs_onnx.adapters import Adapters
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.model import LoadOptions, load
from mistralrs_onnx.re_isq import re_isq
from mistralrs_onnx.runtime.errors import PackageError, RequestError
from mistralrs_onnx.runtime.sessions import usable_device
from mistralrs_onnx.server.lifecycle import Server, ServerOptions
from mistralrs_onnx.server.model import Model

from .chatting.interactive import chat
from .cli.adapter_options import adapted
from .cli.options import CompiledNow, Locate, load_found
from .cli.progress import StoppedError, compile_progress


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for, but for the model."""

    server: ServerOptions
    loading: LoadOptions
    interactive: bool


def start(wanted: Wanted, locate: Locate) -> None:
    """Until it is stopped. Raises CompileError, PackageError."""
    if wanted.interactive:
        with load_found(locate, wanted.loading) as model:
            chat(model)
    else:
        serve(wanted, locate)


def serve(wanted: Wanted, locate: Locate) -> None:
    stopped = Event()
    if isinstance(locate, CompiledNow):
        locate = replace(locate, is_stopped=stopped.is_set)
    options, loader = wanted.server, Loader(locate, wanted.loading)
    try:
        server = Server(
            loader.load,
            options,
            lambda model: click.echo(greeting(server.url, model)),
            loader.requantize if isinstance(locate, CompiledNow) else None,
            stopped.set,
        )
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # what follows repeats the address
        message = f"cannot listen on {options.host}:{options.port}: {reason}. Choose another with --host and -p."
        raise click.ClickException(message) from error
    try:
        server.run()
    except StoppedError:
        click.echo("Stopped while the model was compiled.", err=True)


class Loader:
    """Loads a model, and then the same in other types; adapters go from one to the next, active or not."""

    def __init__(self, locate: Locate, loading: LoadOptions) -> None:
        self._locate = locate
        self._loading = loading
        self._adapters: Adapters | None = None

    def load(self) -> Model:
        usable_device(self._loading.device)  # before anything is compiled
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
