"""`mistralrs-bench http`: latencies and throughput of any server that speaks OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .command_line import SETTINGS, Subcommand
from .failures import INTERRUPTED, OTHER
from .http_client import Answer, Target, get, parse_url, post, read_answer, read_json
from .http_load import Load, Progress, send
from .http_prompts import random_prompts, read_prompts, sample
from .http_report import Report, as_record, block, report

PATHS = {False: "/v1/completions", True: "/v1/chat/completions"}  # of chats?
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
        said: dict[str, Any] = (
            {"messages": [{"role": "user", "content": prompt}]} if self.is_chat else {"prompt": prompt}
        )
        body = said | {"model": self.model, "max_tokens": self.output_len, "temperature": self.temperature}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body | {"ignore_eos": True} if self.ignore_eos else body


@click.command(cls=Subcommand, epilog=EXAMPLES, context_settings=SETTINGS)
@click.option("--url", default="http://127.0.0.1:1234", metavar="URL", help="Where the server is.")
@click.option("--model", metavar="NAME", show_default="the first it has", help="Model to ask for.")
@click.option("--chat", "is_chat", is_flag=True, help="Ask /v1/chat/completions, not /v1/completions.")
@click.option("--num-prompts", type=click.IntRange(1), metavar="N", default=100, help="Requests to send.")
@click.option(
    "--request-rate", type=Rate(), metavar="R", default="inf", help="Of random arrivals a second; inf: all at once."
)
@click.option(
    "--max-concurrency", type=click.IntRange(1), metavar="N", show_default="no bound", help="Requests at once."
)
@click.option("--input-len", type=click.IntRange(1), metavar="N", default=512, help="Words of a random prompt.")
@click.option("--output-len", type=click.IntRange(1), metavar="N", default=128, help="Most tokens of an answer.")
@click.option(
    "--dataset",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help='Prompts, one a line: {"prompt": "..."}.',
)
@click.option("--ignore-eos", is_flag=True, help="Answers go on to --output-len; not every server can.")
@click.option("--temperature", type=click.FloatRange(0), metavar="T", default=0.0, help="0: the likeliest token.")
@click.option("--api-key", metavar="KEY", show_default="OPENAI_API_KEY", help="Of the server.")
@click.option("--seed", type=int, metavar="N", default=0, help="Of prompts and arrivals.")
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", help="Form of the result.")
@click.pass_context
def http(
    ctx: click.Context,
    url: str,
    model: str | None,
    is_chat: bool,
    num_prompts: int,
    request_rate: float,
    max_concurrency: int | None,
    input_len: int,
    output_len: int,
    dataset: Path | None,
    ignore_eos: bool,
    temperature: float,
    api_key: str | None,
    seed: int,
    form: str,
) -> None:
    """A running server, of any make, over OpenAI's API."""
    try:
        target = parse_url(url, api_key or os.environ.get("OPENAI_API_KEY"))
        prompts = random_prompts(num_prompts + 1, input_len, seed)
        if dataset is not None:
            prompts = sample(read_prompts(dataset), num_prompts, seed) + prompts[:1]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    asking = Asking(model or first_model(target), is_chat, output_len, ignore_eos, temperature)
    *bodies, trial = map(asking.body, prompts)
    try_out(target, PATHS[is_chat], trial)
    load = Load(PATHS[is_chat], bodies, request_rate, max_concurrency, seed)
    found, is_interrupted = measure(target, load)
    show(found, load, form)
    if is_interrupted or not found.completed:
        ctx.exit(INTERRUPTED if is_interrupted else OTHER)


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
    progress, is_interrupted = Progress(), False
    with click.progressbar(length=len(load.bodies), label="Requests", file=sys.stderr) as bar:
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
    for error, count in found.errors.items():
        click.echo(f"{count} x {error}", err=True)
