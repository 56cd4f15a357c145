"""`mistralrs-bench http`: latencies and throughput of any server that speaks OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mistralrs_onnx.tools.cli.command_line import SETTINGS, Subcommand
from mistralrs_onnx.tools.cli.failures import INTERRUPTED, OTHER, reported
from mistralrs_onnx.tools.cli.option import Command, decorated, option, said

from .http_answer import Answer, read_answer, read_json
from .http_client import Target, get, parse_url, post
from .http_load import Load, Progress, send
from .http_prompts import random_prompts, read_prompts, sample
from .http_report import Report, as_record, block, report

PATHS = {False: "/v1/completions", True: "/v1/chat/completions"}  # of chats?
INPUT_LEN = 512  # words
EXAMPLES = """
\b
Examples:
  mistralrs-bench http --num-prompts 64 --input-len 256 --output-len 64 --ignore-eos
  mistralrs-bench http --url http://localhost:8000 --chat --request-rate 4 --max-concurrency 16
  mistralrs-bench http --dataset prompts.jsonl -o json
\b
A first request tries the server and does not count. Random prompts have words of about a token each; tokens are
counted by the server. Ctrl-C shows what was measured so far.
"""


class Rate(click.ParamType[float]):
    """Requests a second, or inf."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            rate = float(value)
        except ValueError:
            rate = 0.0
        if not rate > 0:
            self.fail(f"{value!r} must be a number above 0, or inf for all at once", param, ctx)
        return rate


@dataclass(frozen=True, slots=True)
class Asking:
    """What every request has in common."""

    model: str
    is_chat: bool
    output_len: int
    ignore_eos: bool
    temperature: float

    def body(self, prompt: str) -> dict[str, Any]:
        text = {"messages": [{"role": "user", "content": prompt}]} if self.is_chat else {"prompt": prompt}
        body: dict[str, Any] = text | {
            "model": self.model,
            "max_tokens": self.output_len,
            "temperature": self.temperature,
        }
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body | {"ignore_eos": True} if self.ignore_eos else body


HTTP_OPTIONS = (
    option("--url", default="http://127.0.0.1:1234", metavar="URL", help="Where the server is."),
    option("--model", metavar="NAME", show_default="the first it has", help="Model to ask for."),
    option("--chat", is_flag=True, help="Ask /v1/chat/completions, not /v1/completions."),
    option("--num-prompts", type=click.IntRange(1), metavar="N", default=100, help="Requests to send."),
    option(
        "--request-rate",
        type=Rate(),
        metavar="R",
        default="inf",
        help="Of random arrivals a second; inf: all at once.",
    ),
    option("--max-concurrency", type=click.IntRange(1), metavar="N", show_default="no bound", help="Requests at once."),
    option(
        "--input-len",
        type=click.IntRange(1),
        metavar="N",
        show_default=str(INPUT_LEN),
        help="Words of a random prompt.",
    ),
    option("--output-len", type=click.IntRange(1), metavar="N", default=128, help="Most tokens of an answer."),
    option(
        "--dataset",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help='Prompts instead, one a line: {"prompt": "..."}.',
    ),
    option("--ignore-eos", is_flag=True, help="Answers go on to --output-len; not every server can."),
    option("--temperature", type=click.FloatRange(0), metavar="T", default=0.0, help="0: the likeliest token."),
    option("--api-key", metavar="KEY", show_default="OPENAI_API_KEY", help="Of the server."),
    option("--seed", type=int, metavar="N", default=0, help="Of prompts and arrivals."),
    option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the result."),
)


def http_options(command: Command) -> Command:
    return decorated(command, HTTP_OPTIONS)


@click.command(cls=Subcommand, epilog=EXAMPLES, context_settings=SETTINGS)
@http_options
@click.pass_context
def http(ctx: click.Context) -> None:
    """A running server, of any make, over OpenAI's API."""
    values = said(ctx)
    target, prompts = usable(values)
    path, seed = PATHS[values["chat"]], values["seed"]
    with reported():
        asking = Asking(
            values["model"] or first_model(target),
            values["chat"],
            values["output_len"],
            values["ignore_eos"],
            values["temperature"],
        )
        *bodies, trial = map(asking.body, prompts)
        try_out(target, path, trial)
    load = Load(path, bodies, values["request_rate"], values["max_concurrency"], seed)
    found, is_interrupted = measure(target, load)
    show(found, load, values["output"])
    if is_interrupted or not found.completed:
        ctx.exit(INTERRUPTED if is_interrupted else OTHER)


def usable(values: Mapping[str, Any]) -> tuple[Target, list[str]]:
    """The server, and prompts, of which the last one is for a trial. Raises UsageError."""
    try:
        target = parse_url(values["url"], values["api_key"] or os.environ.get("OPENAI_API_KEY"))
        count = values["num_prompts"] + 1
        return target, prompts_of(values["dataset"], values["input_len"], count, values["seed"])
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def prompts_of(dataset: Path | None, input_len: int | None, count: int, seed: int) -> list[str]:
    """Raises ValueError."""
    if dataset is None:
        return random_prompts(count, input_len or INPUT_LEN, seed)
    if input_len is not None:
        raise ValueError("--input-len is of random prompts, and --dataset has others: leave one of them out")
    return sample(read_prompts(dataset), count, seed)


def first_model(target: Target) -> str:
    """Raises ClickException."""
    try:
        return str(read_json(asyncio.run(get(target, "/v1/models")))["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise click.ClickException(
            f"{target.authority} does not say which models it has ({error}): check --url, or name one with --model"
        ) from error


def try_out(target: Target, path: str, body: dict[str, Any]) -> None:
    """Raises ClickException for a server that cannot do what is asked."""
    answer = read_answer(asyncio.run(post(target, path, body)))
    if answer.error is not None:
        raise click.ClickException(f"a first request to {target.authority}{target.prefix}{path} failed: {answer.error}")


def measure(target: Target, load: Load) -> tuple[Report, bool]:
    """Also of a load that Ctrl-C cut short."""
    progress, is_interrupted, is_hidden = Progress(), False, not sys.stderr.isatty()
    with click.progressbar(length=len(load.bodies), label="Requests", file=sys.stderr, hidden=is_hidden) as bar:
        try:
            asyncio.run(send(target, load, progress, lambda: bar.update(1)))
        except KeyboardInterrupt:
            is_interrupted = True
    answers: list[Answer] = [read_answer(exchange) for exchange in progress.exchanges]
    return report(answers, progress.seconds, len(load.bodies)), is_interrupted


def show(found: Report, load: Load, form: str) -> None:
    if form == "json":
        settings = {"request_rate": None if math.isinf(load.rate) else load.rate, "max_concurrency": load.most}
        click.echo(json.dumps(settings | {"seed": load.seed} | as_record(found), indent=2))
    else:
        click.echo(block(found, load.rate, load.most), nl=False)
    if found.unfinished:
        click.echo("interrupted: figures are of the requests that had ended", err=True)
    for error, count in found.errors.items():
        click.echo(f"{count} x {error}", err=True)
