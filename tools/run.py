"""`mistralrs-onnx run`: asks a model something, once or in a conversation."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import click
from rich.console import Console

from mistralrs_onnx.caching.cache import cache_folder
from mistralrs_onnx.model import LoadOptions, Model
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.sessions import usable_device

from .chatting.answering import recommended
from .chatting.conversation import Conversation
from .chatting.interactive import check_template, talk
from .chatting.one_shot import Asked, answer_once
from .chatting.screen import standard_output
from .cli.command_line import CONFIG, EVERYTHING, SETTINGS, Command
from .cli.failures import reported
from .cli.logs import set_up_logging
from .cli.model_argument import find_model
from .cli.option import decorated, option, said
from .cli.options import chosen, load_found, run_options
from .cli.sampling_options import asked, grammar, sampling_options

STDIN = "-"
ROOT = "adapter_root"
HISTORY = "chat_history"  # in the cache folder
ELSEWHERE = (
    "Options may be set in the environment too: MISTRALRS_MAX_TOKENS=100 is --max-tokens 100, MISTRALRS_VERIFY=1 is "
    "--verify. --print-config shows what comes of it."
)


class Argument(click.Argument):
    """The text above the options says what it is."""

    def get_help_record(self, ctx: click.Context) -> Any:
        return None


class Ask(Command):
    """Its options are no part of a configuration file, and it takes no requests that could load adapters."""

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.params.remove(CONFIG)
        for param in self.params:
            if isinstance(param, click.Option) and param.name == ROOT:
                param.hidden = True

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if ctx.meta.get(EVERYTHING, False):
            formatter.write_paragraph()
            formatter.write_text(ELSEWHERE)


ASK_OPTIONS = (
    option("-i", "--interactive", is_flag=True, help="Chat in this terminal; PROMPT, if there is one, is asked first."),
    option("--no-history", is_flag=True, rare=True, help="With -i: keep no file of what was typed."),
    option("--system", metavar="TEXT", default="", show_default=False, help="How the model should be."),
    option("--raw", is_flag=True, help="Continue PROMPT as it is, without a chat template."),
    option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="NAME[:WEIGHT]",
        show_default="those of --lora-modules",
        help="Answer with this one of those that are loaded; repeat for more.",
    ),
    option("--json", is_flag=True, help="Print a JSON object: text, finish_reason, usage, timings, seed."),
    option("--stats", is_flag=True, help="Tokens and speed, on standard error."),
    option(
        "--generation-config",
        type=click.Choice(["auto", "none"]),
        default="auto",
        rare=True,
        help="auto: sample as the model recommends.",
    ),
)


def ask_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return decorated(command, ASK_OPTIONS)


@click.command(cls=Ask, context_settings=SETTINGS)
@click.argument("model", metavar="PACKAGE", type=click.Path(), cls=Argument)
@click.argument("prompt", required=False, cls=Argument)
@ask_options
@sampling_options
@run_options
@click.pass_context
def run(ctx: click.Context, model: str, prompt: str | None) -> None:
    """Ask a model; the answer streams to standard output, all else to standard error.

    PACKAGE: a package, a GGUF file, a folder or hub repository of safetensors, or demo. Without a PROMPT, or with -,
    standard input is the prompt.

    \b
    mistralrs-onnx run demo "Why is the sky blue?"
    git diff | mistralrs-onnx run package --system "Write a commit message." > message
    """
    set_up_logging(dated=False)
    values = said(ctx)
    interactive, system, adapters = values["interactive"], values["system"], values["adapters"]
    shape = Shape(interactive, values["no_history"], values["raw"], values["json"], values["stats"])
    _check_shape(shape, prompt, system)
    loading = replace(with_active(chosen(ctx), adapters), generation_config=values["generation_config"])
    said_params, spec = asked(ctx), grammar(ctx)
    with quiet_pipe(), reported():
        asking = Asked("" if interactive else read_prompt(prompt), system, shape.raw, said_params, spec, adapters)
        with loaded(model, loading) as (talker, seconds):
            if interactive:
                talk(conversation(talker, asking), None if shape.no_history else cache_folder() / HISTORY, prompt)
            else:
                answer_once(talker, asking, as_json=shape.json, with_stats=shape.stats, load_seconds=seconds)


class Shape(NamedTuple):
    """Of what happens, and what is shown of it."""

    interactive: bool
    no_history: bool
    raw: bool
    json: bool
    stats: bool


def _check_shape(shape: Shape, prompt: str | None, system: str) -> None:
    """Raises UsageError for options that do not go together."""
    once = {"--raw": shape.raw, "--json": shape.json, "--stats": shape.stats, STDIN: prompt == STDIN}
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
    """Adapters that are loaded for a question answer it, unless `words` chooses others. Raises UsageError."""
    if loading.adapters is None:
        return loading
    if loading.adapters.root is not None:
        raise click.UsageError("--adapter-root is for requests to a server: name adapters with --lora-modules")
    if words:
        return loading
    return replace(loading, adapters=replace(loading.adapters, active=tuple(loading.adapters.modules)))


@contextmanager
def loaded(text: str, loading: LoadOptions) -> Iterator[tuple[Model, float]]:
    """A model, and the seconds that loading took. Raises CompileError, PackageError."""
    usable_device(loading.device)  # before anything is compiled
    found = find_model(text)()
    begun = perf_counter()
    with Console(stderr=True).status("Loading the model ..."):  # seen on terminals only
        model = load_found(lambda: found, loading)
    with model:
        yield model, perf_counter() - begun


def conversation(model: Model, wanted: Asked) -> Conversation:
    """Raises RequestError."""
    check_template(model)
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
