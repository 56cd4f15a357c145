"""What adapters cost in a step: the base graph, the graph that takes adapters with none, one and eight of them, X-LoRA.

`python -m mistralrs_onnx.tools.benching.adapter_bench --help`. Adapters are random and adapt all linears; all ways
take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import click
import numpy as np

from mistralrs_onnx.compiler.adapters.peft import Adapter as ReadAdapter
from mistralrs_onnx.compiler.adapters.xlora import XLora
from mistralrs_onnx.compiler.adapters.xlora_config import XLoraConfig
from mistralrs_onnx.compiler.archs.arch import Arch
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.isq_map import parse_type
from mistralrs_onnx.compiler.naming import Shape
from mistralrs_onnx.graphs.classifier import Classifier
from mistralrs_onnx.graphs.contract import LoraGroup, Update, Updates
from mistralrs_onnx.model import LoadOptions, make_runner, make_xlora_runner
from mistralrs_onnx.runtime.adapters import Adapter, pack_adapter
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.lanes import Lanes
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.probe import RowRunner, settle_rows
from mistralrs_onnx.runtime.sessions import make_session
from mistralrs_onnx.sources.source import ModelSource
from mistralrs_onnx.tools.cli.failures import reported
from mistralrs_onnx.tools.tables import markdown

SPREAD = 0.02  # of random b; a has rows of length 1


@dataclass(frozen=True, slots=True)
class RandomXLora:
    """Adapters of one rank over all linears, and a layerwise classifier of two linears."""

    count: int
    rank: int

    def read(self, arch: Arch, shapes: Mapping[str, Shape]) -> XLora:
        linears = {
            name.removesuffix(".weight"): (shape[0], shape[1])
            for name, shape in shapes.items()
            if name.startswith("model.layers.") and len(shape) == 2
        }
        hidden_size = shapes["model.embed_tokens.weight"][1]
        spec = Classifier(hidden_size, self.count, len(linears), depth=2)
        rng = np.random.default_rng(0)
        weights = {
            name: rng.standard_normal(shape, np.float32) * np.float32(SPREAD) for name, shape in spec.shapes().items()
        }
        adapters = []
        for seed in range(self.count):
            updates = random_updates(linears, self.rank, seed)
            size = sum(update.a.nbytes + update.b.nbytes for update in updates.values())
            adapters.append(ReadAdapter(f"random-{seed}", None, updates, self.rank, size, f"{seed:064x}"))
        layers = {linear: i for i, linear in enumerate(linears)}
        return XLora(XLoraConfig(hidden_size), spec, weights, tuple(adapters), layers, (0.0,) * self.count)


def random_updates(linears: Mapping[str, tuple[int, int]], rank: int, seed: int) -> Updates:
    """`linears`: shape (N, K) by name."""
    rng = np.random.default_rng(seed)
    return {
        linear: Update(
            rng.standard_normal((rank, columns), np.float32) / np.float32(columns**0.5),
            rng.standard_normal((rows, rank), np.float32) * np.float32(SPREAD),
        )
        for linear, (rows, columns) in linears.items()
    }


def random_adapter(groups: Sequence[LoraGroup], rank: int, seed: int) -> Adapter:
    linears = {
        linear: (rows, group.in_features)
        for group in groups
        for linear, rows in zip(group.linears, group.out_features, strict=True)
    }
    return pack_adapter(f"random-{seed}", f"{seed:064x}", random_updates(linears, rank, seed), groups)


@dataclass(frozen=True, slots=True)
class Way:
    """A runner, and the adapter of each of its rows."""

    name: str
    runner: RowRunner
    adapters: Sequence[Adapter | None]


def ways(package: Package, mixed: Package | None, options: LoadOptions, num_rows: int, rank: int) -> list[Way]:
    groups = package.manifest.lora
    base = make_runner(package, options, make_session(package.engine("float32"), options.num_threads))
    lora_session = make_session(package.engine("float32", takes_adapters=True), options.num_threads)
    lora = make_runner(package, options, lora_session, Lanes(groups, num_rows))
    adapters = [random_adapter(groups, rank, seed) for seed in range(8)]
    found = [
        Way("base graph", base, [None] * num_rows),
        Way("LoRA graph, none", lora, [None] * num_rows),
        Way("LoRA graph, one for all rows", lora, [adapters[0]] * num_rows),
        Way("LoRA graph, eight mixed", lora, [adapters[i % 8] for i in range(num_rows)]),
    ]
    if mixed is not None:
        runner = make_xlora_runner(mixed, options, make_session(mixed.engine("float32"), options.num_threads))
        assert runner is not None
        found.append(Way("X-LoRA", runner, [None] * num_rows))
    for way in found:
        settle_rows(way.runner)
    return found


def step_times(found: Sequence[Way], num_rows: int, depth: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of decode steps of all rows, by way."""
    prompt = np.random.default_rng(0).integers(1, 1000, depth).tolist()
    times: dict[str, list[float]] = {way.name: [] for way in found}
    for runner in dict.fromkeys(way.runner for way in found):
        for slot in range(num_rows):
            runner.run([Row(slot, 0, prompt, 1)])
    for repeat in range(repeats):
        for way in found:
            for step in range(3):  # the first one changes what is bound
                rows = [
                    Row(slot, depth + 3 * repeat + step, [1 + slot], 1, adapter=adapter)
                    for slot, adapter in enumerate(way.adapters)
                ]
                begun = perf_counter()
                way.runner.run(rows)
                if step:
                    times[way.name].append(1000 * (perf_counter() - begun))
    return times


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("-c", "--concurrency", default=16, show_default=True, help="Rows of a step.")
@click.option("-d", "--depth", default=100, show_default=True, help="Tokens before the steps.")
@click.option("-r", "--repeats", default=20, show_default=True, help="Turns of each way.")
@click.option("--rank", default=16, show_default=True, help="Of each adapter.")
@click.option("--threads", default=None, type=int, help="Processors to use.  [default: all]")
@click.option("--isq", default=None, metavar="TYPE", help="Quantize the checkpoint first: Q4K, int4.")
@click.option("--xlora/--no-xlora", default=True, show_default=True, help="X-LoRA of four adapters too.")
def main(
    *,
    file: Path,
    concurrency: int,
    depth: int,
    repeats: int,
    rank: int,
    threads: int | None,
    isq: str | None,
    xlora: bool,
) -> None:
    """Times decode steps of FILE, a GGUF file or a folder of safetensors, with and without adapters."""
    limits = EngineOptions(max_seqs=concurrency, max_model_len=depth + 3 * repeats, prefill_chunk=max(depth, 1))
    options = LoadOptions(engine=limits, num_threads=threads)
    source = ModelSource("plain", str(file)) if file.is_dir() else ModelSource("gguf", str(file.parent), file.name)
    with reported(), TemporaryDirectory() as work:
        quantizing = Isq() if isq is None else Isq(parse_type(isq))
        located = source.locate(CompileOptions(isq=quantizing))
        package = open_package(located.compile(Path(work) / "base"))
        mixed = None
        if xlora:
            mixing = replace(located, options=replace(located.options, xlora=RandomXLora(4, rank)))
            mixed = open_package(mixing.compile(Path(work) / "xlora"))
        found = ways(package, mixed, options, concurrency, rank)
        times = step_times(found, concurrency, depth, repeats)
    columns = ["decode step", "median ms", "fastest ms", "median / base"]
    click.echo(markdown(table(times), columns, num_texts=1), nl=False)


def table(times: Mapping[str, list[float]]) -> list[list[str]]:
    base = median(next(iter(times.values())))
    return [
        [name, f"{median(each):.1f}", f"{min(each):.1f}", f"{median(each) / base:.2f}"] for name, each in times.items()
    ]


if __name__ == "__main__":
    main()
