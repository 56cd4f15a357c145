"""What HTTP costs: streams through the server beside the engine alone, and the first token of a second chat turn.

`python -m mistralrs_onnx.tools.benching.serving_bench --help`. Server and engine are those of one process and one
model; they take turns. The clients are raw sockets in another process.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click

from mistralrs_onnx.model import LoadOptions, Model
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.server.lifecycle import Server, ServerOptions
from mistralrs_onnx.tools.cli.checkpoints import checkpoint_options
from mistralrs_onnx.tools.cli.failures import reported
from mistralrs_onnx.tools.cli.options import Locate, add_models, load_found
from mistralrs_onnx.tools.tables import markdown

from .measuring import Prompts, greedy, run
from .words import sentence, single_token_words

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for, but for the model."""

    clients: int
    n_prompt: int
    n_gen: int
    history: int
    repetitions: int
    threads: int | None


class Turn(NamedTuple):
    """The first token of a chat's second turn."""

    seconds: float
    prompt_tokens: int
    cached_tokens: int


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("-c", "--clients", type=click.IntRange(1), default=16, show_default=True, help="Streams at once.")
@click.option("-p", "--n-prompt", type=click.IntRange(1), default=32, show_default=True, help="Tokens each reads.")
@click.option("-g", "--n-gen", type=click.IntRange(2), default=128, show_default=True, help="Tokens each generates.")
@click.option("--history", type=click.IntRange(1), default=1500, show_default=True, help="Tokens of the first turn.")
@click.option("-r", "--repetitions", type=click.IntRange(1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Processors to use.  [default: all]")
@checkpoint_options(chat_template=False)
@click.pass_context
def main(
    ctx: click.Context, clients: int, n_prompt: int, n_gen: int, history: int, repetitions: int, threads: int | None
) -> None:
    """Measure the server beside its own engine."""
    ctx.obj = Wanted(clients, n_prompt, n_gen, history, repetitions, threads)


def measure(wanted: Wanted, locate: Locate) -> None:
    options = LoadOptions(engine=EngineOptions(max_seqs=wanted.clients), num_threads=wanted.threads)
    with reported():
        model = load_found(locate, options)
        with serving(model) as port:
            click.echo(throughputs(model, port, wanted))
            if model.chat_template is not None:
                click.echo(second_turns(model, port, wanted), nl=False)


add_models(main, measure)


@contextmanager
def serving(model: Model) -> Iterator[int]:
    """A server on a free port, in a thread. It closes the model at its end."""
    ready = threading.Event()
    server = Server(lambda: model, ServerOptions(port=0), lambda _: ready.set())
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server.port
    finally:
        server.stop()
        thread.join()


def throughputs(model: Model, port: int, wanted: Wanted) -> str:
    """A table of tokens per second, from the sending of all requests to the last byte of the last answer."""
    prompts = Prompts(model.manifest.vocab_size)
    by_way: dict[str, list[float]] = {"engine": [], "server": []}
    for i in range(wanted.repetitions + 1):  # the first is a warm-up
        click.echo(f"{wanted.clients} streams, repetition {i} of {wanted.repetitions} ...", err=True)
        asked = [[prompts.draw(wanted.n_prompt) for _ in range(wanted.clients)] for _ in by_way]
        by_way["engine"].append(engine_rate(model, asked[0], wanted.n_gen, prompts))
        by_way["server"].append(server_rate(port, asked[1], wanted.n_gen))
    engine, server = (median(rates[1:]) for rates in by_way.values())
    cells = [["engine", f"{engine:.1f}", "100 %"], ["server", f"{server:.1f}", f"{100 * server / engine:.1f} %"]]
    return markdown(cells, [f"{wanted.clients} streams of {wanted.n_gen}", "t/s", "of the engine"], num_texts=1)


def engine_rate(model: Model, asked: Sequence[Sequence[int]], n_gen: int, prompts: Prompts) -> float:
    batch = run(model.engine, asked, greedy(n_gen), prompts)
    return sum(request.num_output for request in batch.requests) / (batch.ended.time - batch.released_at)


def server_rate(port: int, asked: Sequence[Sequence[int]], n_gen: int) -> float:
    bodies = [{"prompt": prompt, "max_tokens": n_gen, "temperature": 0, "ignore_eos": True} for prompt in asked]
    answers = stream(port, COMPLETIONS, bodies)
    num_tokens = sum(usage(answer)["completion_tokens"] for answer in answers)
    return int(num_tokens) / max(float(answer["last"]) for answer in answers)


def stream(port: int, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What stream_clients reports. Raises ClickException for answers that are not streams to the end."""
    streaming = {"stream": True, "stream_options": {"include_usage": True}}
    job = {"port": port, "path": path, "bodies": [body | streaming for body in bodies]}
    command = [sys.executable, str(Path(__file__).with_name("stream_clients.py"))]
    done = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True)
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    for answer in answers:
        if answer["status"] != 200 or not answer["text"].endswith("data: [DONE]\n\n"):
            raise click.ClickException(f"the server answered {answer['status']}: {answer['text'][-300:]}")
    return answers


def events(answer: dict[str, Any]) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer["text"].splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def usage(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = events(answer)[-1]["usage"]
    return found


def second_turns(model: Model, port: int, wanted: Wanted) -> str:
    """A table of seconds to the first token of a second turn, with the first one in the cache and without."""
    words = single_token_words(model.tokenizer)
    turns = []
    for i in range(wanted.repetitions + 1):
        click.echo(f"Second turns, repetition {i} of {wanted.repetitions} ...", err=True)
        turns.append(second_turn(port, words, wanted.history))
    cells = [row(name, turn) for name, turn in zip(("cached", "uncached"), zip(*turns[1:], strict=True), strict=True)]
    ratio = float(cells[0][1]) / float(cells[1][1])
    columns = ["second turn of a chat", "TTFT ms", "prompt tokens", "cached tokens"]
    return markdown(cells, columns, num_texts=1) + f"\ncached / uncached: {ratio:.3f}\n"


def row(name: str, turns: Sequence[Turn]) -> list[str]:
    seconds, prompt_tokens, cached_tokens = (median(values) for values in zip(*turns, strict=True))
    return [name, f"{1000 * seconds:.1f}", f"{prompt_tokens:.0f}", f"{cached_tokens:.0f}"]


def second_turn(port: int, words: Sequence[str], history: int) -> tuple[Turn, Turn]:
    """A conversation's second turn after its first, and the same that differs from its first word on."""
    question = {"role": "user", "content": sentence(words, history)}
    [answer] = stream(port, CHAT, [chat_body([question])])
    said = "".join(choice["delta"].get("content", "") for event in events(answer) for choice in event["choices"])
    follow_up = [{"role": "assistant", "content": said}, {"role": "user", "content": sentence(words, 10)}]
    other = {"role": "user", "content": f"{random.choice(words).strip().upper()}{question['content']}"}
    [cached] = stream(port, CHAT, [chat_body([question, *follow_up])])
    [uncached] = stream(port, CHAT, [chat_body([other, *follow_up])])
    return turn(cached), turn(uncached)


def chat_body(messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"messages": messages, "max_tokens": 16, "temperature": 0, "ignore_eos": True}


def turn(answer: dict[str, Any]) -> Turn:
    counts = usage(answer)
    return Turn(answer["first"], counts["prompt_tokens"], counts["prompt_tokens_details"]["cached_tokens"])


if __name__ == "__main__":
    main()
