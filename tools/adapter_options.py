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

from .params import Module, Pair, Size, by_name

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

GATHERED = f"{__name__}.gathered"  # key of a click context's notes
INDEX = f"{__name__}.index"
CAPS = AdapterCaps()
COUNT, RANK = "--max-loras", "--max-lora-rank"


class Found(NamedTuple):
    """A package to run, adapters to load with it, and of X-LoRA, from which token on scalings stay as they are."""

    package: Path
    adapters: LocatedAdapters = LocatedAdapters()
    tgt_non_granular_index: int | None = None


def _option(name: str, field: str, kind: click.ParamType[Any], **rest: Any) -> Decorator:
    return click.option(name, field, type=kind, expose_value=False, callback=_keep, **rest)


def _keep_index(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    ctx.meta[INDEX] = value


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, ()):
        ctx.meta.setdefault(GATHERED, {})[param.name] = value


NON_GRANULAR = click.option(
    "--tgt-non-granular-index",
    type=click.IntRange(1),
    metavar="N",
    help="X-LoRA: the Nth generated token's scalings are those of all later ones, which is faster.",
    expose_value=False,
    callback=_keep_index,
)
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
        metavar=f", {RANK} N",
        help=f"Adapters at once, their rank.  [default: {CAPS.count}, {CAPS.rank}]",
    ),
    _option(RANK, "rank", click.IntRange(1), hidden=True),
    _option("--adapter-mem", "num_bytes", Size(), help=f"Of all adapters.  [default: {CAPS.num_bytes >> 30}GiB]"),
)


def non_granular_index(ctx: click.Context) -> int | None:
    """What NON_GRANULAR was given."""
    index: int | None = ctx.meta.get(INDEX)
    return index


def adapter_options(ctx: click.Context) -> AdapterOptions | None:
    """None where nothing is said about adapters."""
    said = dict(ctx.meta.get(GATHERED, {}))
    if not said:
        return None
    modules, root = by_name("--lora-modules", said.pop("modules", ())), said.pop("root", None)
    return AdapterOptions(modules, root=root, caps=AdapterCaps(**said))


def adapted(loading: LoadOptions, found: Found) -> LoadOptions:
    """With what came with the model too. Raises CompileError for what does not go together."""
    said, adapters = loading.adapters, found.adapters
    if said is not None and not (said.modules or said.root or adapters.loaded or _has_adapters(found.package)):
        raise CompileError("there are caps of adapters, and no adapters: add --lora-modules or --adapter-root")
    loading = replace(loading, tgt_non_granular_index=found.tgt_non_granular_index)
    if not adapters.loaded:
        return loading
    said = said or AdapterOptions()
    for name in adapters.loaded.keys() & said.modules.keys():
        raise CompileError(f"--lora-modules has an adapter {name}, and the ordering file another: name it otherwise")
    return replace(loading, adapters=replace(said, modules={**adapters.loaded, **said.modules}, active=adapters.active))


def _has_adapters(package: Path) -> bool:
    """Of its own, to load or to mix."""
    manifest = open_package(package).manifest
    return bool(manifest.adapters or manifest.xlora)
