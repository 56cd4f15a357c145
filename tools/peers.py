"""Our engine beside llama.cpp and the `mistralrs` package: one checkpoint, one machine, one run.

`python -m mistralrs_onnx.tools.peers --help`. All take turns in each repetition, since other work on the machine
disturbs whoever runs just then; a cell is the median of its repetitions. Peers that are not named are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import get_args

import click

from mistralrs_onnx.cache import DEMO_FILE, demo_source
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.runner import Determinism
from mistralrs_onnx.source import ModelSource

from .bench import Numbers, markdown
from .checkpoints import Chosen
from .failures import reported
from .measuring import Prompts, Workload, greedy, measure
from .options import CompiledNow
from .overhead import overhead, timed_engine
from .peer_llama import Rates, llama_batched_bench, llama_bench, output_of
from .words import single_token_words

EXECUTABLE = click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=False)


@dataclass(frozen=True, slots=True)
class Contestant:
    """Runs each workload once and says the tokens per second of each that it can do, `repetitions` times."""

    name: str
    rates: Callable[[Sequence[Workload]], Rates]
    repetitions: int


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), help="GGUF file.  [default: the demo's]")
@click.option("--llama-bench", "alone", type=EXECUTABLE, help="llama.cpp's program; for one request at a time.")
@click.option("--llama-batched-bench", "batched", type=EXECUTABLE, help="llama.cpp's program; for several at once.")
@click.option("--mistralrs-python", type=EXECUTABLE, help="Python interpreter that has the package mistralrs.")
@click.option("-r", "--repetitions", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--mistralrs-repetitions",
    type=click.IntRange(1),
    help="Of mistralrs, which reads 16 prompts of 500 tokens in minutes.  [default: as many]",
)
@click.option("-t", "--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("-p", "--n-prompt", type=click.IntRange(1), default=512, show_default=True, help="Tokens to read.")
@click.option("-g", "--n-gen", type=click.IntRange(1), default=64, show_default=True, help="Tokens to generate.")
@click.option("-d", "--depth", type=Numbers(1), default="100,500", show_default=True, help="Tokens that lie before.")
@click.option("-c", "--concurrency", type=Numbers(1), default="1,16", show_default=True, help="Requests at once.")
def main(
    checkpoint: Path | None,
    alone: Path | None,
    batched: Path | None,
    mistralrs_python: Path | None,
    repetitions: int,
    mistralrs_repetitions: int | None,
    threads: int,
    n_prompt: int,
    n_gen: int,
    depth: tuple[int, ...],
    concurrency: tuple[int, ...],
) -> None:
    """Measure prefill and decode beside other engines, and what our engine costs around ONNX Runtime."""
    workloads = [Workload("pp", n_prompt), *(Workload("tg", n_gen, d, c) for c in concurrency for d in depth)]
    with reported(), ExitStack() as stack:
        source = demo_source() if checkpoint is None else ModelSource("gguf", str(checkpoint.parent), checkpoint.name)
        file = Path(source.model, checkpoint.name if checkpoint else DEMO_FILE)
        package = open_package(CompiledNow(Chosen(source, CompileOptions()))().package)
        options = LoadOptions(num_threads=threads, engine=EngineOptions(max_seqs=max(16, *concurrency)))
        contestants = our_modes(package, options, workloads, repetitions, stack)
        if alone is not None or batched is not None:
            run_llama = partial(llama_rates, alone, batched, file, threads)
            contestants.append(Contestant("llama.cpp", run_llama, repetitions))
        if mistralrs_python is not None:
            words = single_token_words(package.tokenizer())
            run_mistralrs = partial(mistralrs_rates, mistralrs_python, file, threads, words)
            contestants.append(Contestant("mistralrs", run_mistralrs, mistralrs_repetitions or repetitions))
        click.echo(comparison(contestants, workloads))
        click.echo(overheads(package, options, n_gen, min(depth), repetitions), nl=False)


def our_modes(
    package: Package, options: LoadOptions, workloads: Sequence[Workload], repetitions: int, stack: ExitStack
) -> list[Contestant]:
    """Our engine in both modes, the default one first, warmed up as the others do it themselves."""
    contestants = []
    for mode in get_args(Determinism):
        model = stack.enter_context(load(package.path, replace(options, determinism=mode)))
        engine_rates(model, workloads)
        contestants.append(Contestant(f"ours, {mode}", partial(engine_rates, model), repetitions))
    return contestants


def engine_rates(model: Model, workloads: Sequence[Workload]) -> Rates:
    prompts = Prompts(model.manifest.vocab_size)
    return {workload: measure(model.engine, workload, prompts).rate for workload in workloads}


def llama_rates(
    alone: Path | None, batched: Path | None, checkpoint: Path, threads: int, workloads: Sequence[Workload]
) -> Rates:
    singles = [workload for workload in workloads if workload.concurrency == 1]
    others = [workload for workload in workloads if workload.concurrency > 1]
    rates = llama_bench(alone, checkpoint, threads, singles) if alone is not None else {}
    return rates | (llama_batched_bench(batched, checkpoint, threads, others) if batched is not None else {})


def mistralrs_rates(
    python: Path, checkpoint: Path, threads: int, words: Sequence[str], workloads: Sequence[Workload]
) -> Rates:
    job = {
        "folder": str(checkpoint.parent),
        "file": checkpoint.name,
        "words": words,
        "workloads": [asdict(workload) for workload in workloads],
    }
    script = Path(__file__).with_name("peer_mistralrs.py")
    env = {"RAYON_NUM_THREADS": str(threads), "CANDLE_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    output = output_of([python, script], json.dumps(job), env)
    return dict(zip(workloads, json.loads(output.splitlines()[-1]), strict=True))


def comparison(contestants: Sequence[Contestant], workloads: Sequence[Workload]) -> str:
    """A table of medians, with our default mode divided by each peer's."""
    samples: dict[tuple[str, Workload], list[float]] = {}
    for i in range(max(contestant.repetitions for contestant in contestants)):
        for contestant in (c for c in contestants if i < c.repetitions):
            click.echo(f"{contestant.name}, repetition {i + 1} of {contestant.repetitions} ...", err=True)
            for workload, rate in contestant.rates(workloads).items():
                samples.setdefault((contestant.name, workload), []).append(rate)
    medians = {key: median(rates) for key, rates in samples.items()}
    names = [contestant.name for contestant in contestants]
    columns = ["test", "concurrency", *(f"{name}, t/s" for name in names), *(f"ours / {name}" for name in names[2:])]
    return markdown([cells(workload, names, medians) for workload in workloads], columns, num_texts=1)


def cells(workload: Workload, names: Sequence[str], medians: Mapping[tuple[str, Workload], float]) -> list[str]:
    """Of one row: rates of all, then ratios to the peers, who come after our two modes."""
    rates = [medians.get((name, workload)) for name in names]
    shown = ["-" if rate is None else f"{rate:.1f}" for rate in rates]
    ratios = ["-" if rate is None or rates[0] is None else f"{rates[0] / rate:.2f}" for rate in rates[2:]]
    return [workload.name, str(workload.concurrency), *shown, *ratios]


def overheads(package: Package, options: LoadOptions, n_gen: int, depth: int, repetitions: int) -> str:
    """A table of what our engine costs outside ONNX Runtime with 16 requests that decode."""
    ways = {"greedy": greedy(n_gen), "top-p 0.9 for all": replace(greedy(n_gen), temperature=1.0, top_p=0.9)}
    rows = []
    with timed_engine(package, options) as (engine, session):
        prompts = Prompts(package.manifest.vocab_size)
        for name, params in ways.items():
            once = partial(overhead, engine, session, prompts, params, num_requests=16, depth=depth)
            once()
            step, inside, packing = map(median, zip(*(once() for _ in range(repetitions)), strict=True))
            rows.append([name, *(f"{ms:.2f}" for ms in (step, inside, packing)), f"{100 * (1 - inside / step):.1f} %"])
    columns = ["step of 16", "ms", "in ONNX Runtime", "in the runner around it", "outside ONNX Runtime"]
    return markdown(rows, columns, num_texts=1)


if __name__ == "__main__":
    main()
