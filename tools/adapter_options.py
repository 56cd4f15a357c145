"""Options that load adapters beside a model, and how they join those that come with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from mistralrs_onnx.adapter_source import LocatedAdapters
from mistralrs_onnx.adapters import AdapterOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.model import LoadOptions
from mistralrs_onnx.runtime.adapter_registry import AdapterCaps
from mistralrs_onnx.runtime.package import open_package

from .params import Module, Size

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

GATHERED = f"{__name__}.gathered"  # key of a click context's notes
CAPS = AdapterCaps()
COUNT, RANK = "--max-loras", "--max-lora-rank"


class Found(NamedTuple):
    """A package to run, and adapters to load with it."""

    package: Path
    adapters: LocatedAdapters = LocatedAdapters()


class Pair(click.Option):
    """Stands in one line of help for itself and for another, which is hidden, so that a page fits on a screen."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return f"{COUNT}, {RANK} N", self.help or ""


def _option(name: str, field: str, kind: click.ParamType[Any], **rest: Any) -> Decorator:
    return click.option(name, field, type=kind, expose_value=False, callback=_keep, **rest)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, ()):
        ctx.meta.setdefault(GATHERED, {})[param.name] = value


ADAPTER_OPTIONS = (
    _option(
        "--lora-modules",
        "modules",
        Module(),
        multiple=True,
        metavar="NAME=PATH",
        help="Adapter to load; repeat for more.",
    ),
    _option(
        "--adapter-root",
        "root",
        click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="FOLDER",
        help="From here requests may load adapters.",
    ),
    _option(
        COUNT,
        "count",
        click.IntRange(1),
        cls=Pair,
        help=f"Adapters at once, their rank.  [default: {CAPS.count}, {CAPS.rank}]",
    ),
    _option(RANK, "rank", click.IntRange(1), hidden=True),
    _option("--adapter-mem", "num_bytes", Size(), help=f"Of all adapters.  [default: {CAPS.num_bytes >> 30}GiB]"),
)


def adapter_options(ctx: click.Context) -> AdapterOptions | None:
    """None where nothing is said about adapters."""
    said = dict(ctx.meta.get(GATHERED, {}))
    if not said:
        return None
    named, root = said.pop("modules", ()), said.pop("root", None)
    modules = dict(named)
    if len(modules) < len(named):
        raise click.UsageError("--lora-modules has a name twice: give each adapter its own")
    return AdapterOptions(modules, root=root, caps=AdapterCaps(**said))


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
