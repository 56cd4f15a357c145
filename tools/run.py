"""`mistralrs-onnx run`: asks a model something, once or in a conversation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import click
from rich.console import Console

from mistralrs_onnx.cache import cache_folder
from mistralrs_onnx.model import LoadOptions, Model
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import SamplingParams

from .answering import recommended
from .conversation import Conversation
from .failures import reported
from .interactive import talk
from .model_argument import find_model
from .one_shot import Asked, answer_once
from .options import chosen, load_found, run_options
from .sampling_options import asked, grammar, sampling_options
from .screen import standard_output

STDIN = "-"
HISTORY = "chat_history"  # in the cache folder


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("model", metavar="PACKAGE")
@click.argument("prompt", required=False)
@click.option("-i", "--interactive", is_flag=True, help="Chat; PROMPT, if there is one, is asked first.")
@click.option("--no-history", is_flag=True, help="With -i: keep no file of what was typed.")
@click.option("--system", metavar="TEXT", default="", help="How the model should be.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without a chat template.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME[:X]", help="Of those loaded.  [default: all given]")
@click.option("--json", "as_json", is_flag=True, help="A JSON object: text, usage, finish_reason, timings.")
@click.option("--stats", "with_stats", is_flag=True, help="Tokens and speed, on standard error.")
@sampling_options
@run_options
@click.pass_context
def run(
    ctx: click.Context,
    model: str,
    prompt: str | None,
    system: str,
    adapters: tuple[str, ...],
    *,
    interactive: bool,
    no_history: bool,
    raw: bool,
    as_json: bool,
    with_stats: bool,
) -> None:
    """Ask a model; the answer streams to standard output, all else to standard error.

    PACKAGE: a package, a GGUF file, a folder or hub repository of safetensors, or demo. PROMPT: - reads standard
    input, as does none.

    \b
    mistralrs-onnx run demo "Why is the sky blue?"
    git diff | mistralrs-onnx run package --system "Write a commit message." > message
    """
    _check_shape(Shape(interactive, no_history, raw, as_json, with_stats), prompt, system)
    loading, said = with_active(chosen(ctx), adapters), asked(ctx)
    question = Asked("" if interactive else read_prompt(prompt), system, raw, said, grammar(ctx), adapters)
    with quiet_pipe(), reported(), loaded(model, loading) as (talker, seconds):
        if interactive:
            talk(conversation(talker, question), None if no_history else cache_folder() / HISTORY, prompt)
        else:
            answer_once(talker, question, as_json=as_json, with_stats=with_stats, load_seconds=seconds)


class Shape(NamedTuple):
    """Of what happens, and what is shown of it."""

    interactive: bool
    no_history: bool
    raw: bool
    as_json: bool
    with_stats: bool


def _check_shape(shape: Shape, prompt: str | None, system: str) -> None:
    """Raises UsageError for options that do not go together."""
    once = {"--raw": shape.raw, "--json": shape.as_json, "--stats": shape.with_stats, STDIN: prompt == STDIN}
    for name, is_given in once.items():
        if shape.interactive and is_given:
            raise click.UsageError(f"{name} is of one answer, and -i of a conversation: leave one of them out")
    if shape.no_history and not shape.interactive:
        raise click.UsageError("--no-history is of a conversation: add -i, or leave it out")
    if shape.raw and system:
        raise click.UsageError("--raw continues the prompt alone, so --system means nothing: leave one of them out")


def read_prompt(prompt: str | None) -> str:
    """From standard input where it is not said, without the end of its last line. Raises UsageError."""
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError('which prompt? Give one, like "Why is the sky blue?", or chat with -i')
    if prompt is None or prompt == STDIN:
        try:
            prompt = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise click.UsageError(f"standard input is not UTF-8: {error}") from error
        prompt = prompt.removesuffix("\n").removesuffix("\r")
    if not prompt.strip():
        raise click.UsageError("the prompt is empty: say something")
    return prompt


def with_active(loading: LoadOptions, words: Sequence[str]) -> LoadOptions:
    """Adapters that are loaded for a question answer it, unless `words` chooses others."""
    if words or loading.adapters is None:
        return loading
    return replace(loading, adapters=replace(loading.adapters, active=tuple(loading.adapters.modules)))


@contextmanager
def loaded(text: str, loading: LoadOptions) -> Iterator[tuple[Model, float]]:
    """A model, and the seconds that loading took. Raises CompileError, PackageError."""
    found = find_model(text)()
    begun = perf_counter()
    with Console(stderr=True).status("Loading the model ..."):  # seen on terminals only
        model = load_found(lambda: found, loading)
    with model:
        yield model, perf_counter() - begun


def conversation(model: Model, wanted: Asked) -> Conversation:
    """Raises RequestError."""
    if model.chat_template is None:
        raise RequestError(f"{model.name} has no chat template and cannot chat: ask it once, without -i")
    params = SamplingParams(**{**recommended(model), **wanted.params})
    rules = None if wanted.grammar is None else model.grammar(wanted.grammar)
    return Conversation(model, standard_output(), wanted.system, params, wanted.adapters, rules)


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """Whoever reads the answer may have read enough."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python flushes to in the end
        sys.exit(0)
