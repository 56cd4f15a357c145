"""`mistralrs-bench`: tokens per second of a model, alone or beside other engines, and of a server."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.sessions import num_processors, usable_device

from .benching.bench_results import Sheet, alone, compared, show
from .benching.contest import compete
from .benching.http_bench import http
from .benching.measuring import BASE, Prompts, Turns, Workload, measure, repeat
from .benching.peers import PEERS, Job, Peer, find_peers
from .cli.adapter_options import Found, adapted
from .cli.checkpoints import Commands, checkpoint_options
from .cli.command_line import SETTINGS
from .cli.failures import reported
from .cli.logs import set_up_logging
from .cli.option import ABOUT, Command, Option, decorated, option, said, subject_of
from .cli.options import Locate, add_models, chosen, run_options
from .cli.speculate_options import speculate_note

EXAMPLES = """
\b
Examples:
  mistralrs-bench demo
  mistralrs-bench -p 0 -g 64 -d 100,500 -c 1,16 --determinism fast demo
  mistralrs-bench --compare llama.cpp,genai gguf -m ~/models -f model.Q4_1.gguf
  mistralrs-bench http --url http://127.0.0.1:1234 --request-rate 4
\b
pp reads a prompt, tg generates; "@ d500": after 500 tokens. t/s and ms/t are of one request,
throughput of all, from when each has its first token.
"""


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between: 1,4,16."""

    name = "numbers"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(word.strip().isdecimal() and int(word) >= self._least for word in words):
            self.fail(f"{value!r} must be numbers of at least {self._least} with commas between, like 1,4,16")
        return tuple(dict.fromkeys(int(word) for word in words))


class Names(click.ParamType[tuple[str, ...]]):
    """Engines with commas between."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        for word in words:
            if word not in PEERS:
                near = difflib.get_close_matches(word, PEERS, 1)
                meant = f"; did you mean {near[0]}?" if near else ""
                self.fail(f"{word!r} is none of {', '.join(PEERS)}{meant}", param, ctx)
        return tuple(dict.fromkeys(words))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for, but for the model. `form`: None for what suits standard output."""

    workloads: tuple[Workload, ...]
    repetitions: int
    warmup: int
    rivals: tuple[str, ...]
    form: str | None
    loading: LoadOptions


MEASURING = "Measuring"  # subject
BENCH_OPTIONS = (
    option(
        "-p", "--n-prompt", type=click.IntRange(0), metavar="N", default=512, subject=MEASURING, help="Tokens to read."
    ),
    option(
        "-g", "--n-gen", type=click.IntRange(0), metavar="N", default=128, subject=MEASURING, help="Tokens to generate."
    ),
    option(
        "-c",
        "--concurrency",
        type=Numbers(1),
        metavar="N,N",
        default="1,4,16",
        subject=MEASURING,
        help="Requests that generate at once.",
    ),
    option(
        "-d", "--depth", type=Numbers(0), metavar="N,N", default="0", subject=MEASURING, help="Tokens that lie before."
    ),
    option(
        "-r",
        "--repetitions",
        type=click.IntRange(1),
        metavar="N",
        default=5,
        subject=MEASURING,
        help="Runs of each test.",
    ),
    option(
        "--warmup",
        type=click.IntRange(0),
        metavar="N",
        default=1,
        subject=MEASURING,
        rare=True,
        help="Runs before, which do not count.",
    ),
    option(
        "--compare",
        type=Names(),
        metavar="NAMES",
        subject=MEASURING,
        help=f"Run these too, in turns: {','.join(PEERS)}.",
    ),
    option(
        "-o",
        "--output",
        type=click.Choice(["md", "csv", "json"]),
        subject=MEASURING,
        show_default="a table on a terminal, md elsewhere",
        help="Form of the result.",
    ),
)


LESS_USUAL = {
    "adapter_root",
    "token_source",
    "max_model_len",
    "kv_mem",
    "device",
}  # than for serving: the page has no room


def bench_options(command: Command) -> Command:
    return decorated(command, BENCH_OPTIONS)


@click.group(cls=Commands, epilog=EXAMPLES, context_settings=SETTINGS)
@click.version_option(package_name="mistralrs-onnx")
@bench_options
@run_options
@checkpoint_options(chat_template=False)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Measure how fast a model reads and generates."""
    set_up_logging()
    if ctx.invoked_subcommand == http.name:
        check_nothing_given(ctx)
        return
    values, loading = said(ctx), chosen(ctx)
    workloads = tuple(plan(values["n_prompt"], values["n_gen"], values["concurrency"], values["depth"]))
    if not workloads:
        raise click.UsageError("nothing to measure: -p and -g are both 0")
    check_fits(workloads, loading)
    rivals = values["compare"] or ()
    if rivals and loading.device != "cpu":
        raise click.UsageError(f"--compare is with others on the CPU: leave it out on {loading.device}")
    ctx.obj = Wanted(workloads, values["repetitions"], values["warmup"], rivals, values["output"], loading)


def check_nothing_given(ctx: click.Context) -> None:
    """Raises UsageError for options of models, of which a server that runs already has one."""
    about_models = [param for param in ctx.command.params if subject_of(param) != ABOUT]
    sources = {param.opts[-1]: ctx.get_parameter_source(param.name or "") for param in about_models}
    given = [name for name, source in sources.items() if source is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"{', '.join(given)} before http has no meaning: options of http stand after it")


def plan(n_prompt: int, n_gen: int, concurrency: Sequence[int], depth: Sequence[int]) -> Iterator[Workload]:
    for d in depth:
        if n_prompt:
            yield Workload("pp", n_prompt, d)
        if n_gen:
            yield from (Workload("tg", n_gen, d, c) for c in concurrency)


def check_fits(workloads: Sequence[Workload], loading: LoadOptions) -> None:
    """Raises UsageError for options under which another thing would be measured."""
    most, engine = max(workload.concurrency for workload in workloads), loading.engine
    if most > engine.max_seqs:
        raise click.UsageError(f"-c {most} is more than {engine.max_seqs} requests at once: add --max-seqs {most}")
    if not engine.prefix_cache and any(workload.depth for workload in workloads):
        raise click.UsageError("-d needs the prefix cache: leave out --no-prefix-cache")


def run(wanted: Wanted, locate: Locate) -> None:
    with reported():
        usable_device(wanted.loading.device)  # before anything is compiled
        found = locate()
        wanted = replace(wanted, loading=adapted(wanted.loading, found))
        peers = rivals(wanted, locate, found)
        with load(found.package, wanted.loading) as model:
            sheet = beside(wanted, model, peers) if peers else measured(wanted, model)
    show(sheet, wanted.form)


def measured(wanted: Wanted, model: Model) -> Sheet:
    prompts, adapters = Prompts(model.manifest.vocab_size), turns(model)
    results = []
    for workload in wanted.workloads:
        click.echo(f"Measuring {workload.name}, {workload.concurrency} at once ...", err=True)
        results.append(repeat(model.engine, workload, prompts, wanted.repetitions, adapters, wanted.warmup))
    return alone(results, title(model, adapters, wanted.loading), wanted.loading)


def rivals(wanted: Wanted, locate: Locate, found: Found) -> list[Peer]:
    """Those that can be had; others are named with what to do. Raises ClickException when none can."""
    if not wanted.rivals:
        return []
    job = Job(locate, open_package(found.package), wanted.loading.num_threads or num_processors())
    peers, missing = find_peers(wanted.rivals, job)
    for name, reason in missing.items():
        click.echo(f"{name} is left out: {reason}", err=True)
    if not peers:
        raise click.ClickException("nobody is left to compare with")
    return peers


def beside(wanted: Wanted, model: Model, peers: Sequence[Peer]) -> Sheet:
    if turns(model) != BASE:
        raise click.UsageError("--compare runs models without adapters: leave the adapters out")
    prompts = Prompts(model.manifest.vocab_size)
    ours = partial(measure, model.engine, prompts=prompts)
    contest = compete(ours, peers, wanted.workloads, wanted.repetitions, wanted.warmup)
    return compared(*contest, title(model, BASE, wanted.loading), wanted.loading)


def title(model: Model, adapters: Turns, loading: LoadOptions) -> str:
    notes = [*adapter_note(adapters, len(model.mixed_adapters)), speculate_note(loading.speculate)]
    return ", ".join([model.name, *filter(None, notes)])


def turns(model: Model) -> Turns:
    """What requests run with: the active adapters, else each of those that are loaded."""
    if model.adapters is None:
        return BASE
    active = model.adapters.select(None)
    return (active,) if active is not None else tuple(model.adapters.loaded()) or BASE


def adapter_note(adapters: Turns, num_mixed: int) -> Iterator[str]:
    if num_mixed:
        yield f"X-LoRA of {num_mixed}"
    names = [adapter.name for adapter in adapters if adapter is not None]
    if names:
        yield f"adapter {names[0]}" if len(names) == 1 else f"{len(names)} adapters"


for param in main.params:
    if isinstance(param, Option) and param.name in LESS_USUAL:
        param.rare = True
add_models(main, run)
main.add_command(http)
