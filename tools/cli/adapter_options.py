"""Options that load adapters beside a model, and how they join those that come with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mistralrs_onnx.compiler.errors import CompileError

from .option import Decorator, option, said
from .params import Module, Size, by_name

if TYPE_CHECKING:
    from mistralrs_onnx.adapters import AdapterOptions
    from mistralrs_onnx.model import LoadOptions
    from mistralrs_onnx.sources.adapter_source import LocatedAdapters
    from mistralrs_onnx.speculate import SpeculateOptions

COUNT, RANK, MEMORY = 16, 256, "8GiB"  # as AdapterCaps has them, which is slow to import
SUBJECT = "Adapters"


def _no_adapters() -> LocatedAdapters:
    from mistralrs_onnx.sources.adapter_source import LocatedAdapters  # slow to import

    return LocatedAdapters()


@dataclass(frozen=True, slots=True)
class Found:
    """A package to run, and what the subcommand that names it says of running it.

    `adapters`: to load with it. `tgt_non_granular_index`: of X-LoRA, from which token on scalings stay as they are.
    `speculate`: unless other guesses are asked for.
    """

    package: Path
    adapters: LocatedAdapters = field(default_factory=_no_adapters)
    tgt_non_granular_index: int | None = None
    repeat_last_n: int | None = None
    speculate: SpeculateOptions | None = None


def _option(name: str, field: str, kind: click.ParamType[Any], **rest: Any) -> Decorator:
    return option(name, field, type=kind, subject=SUBJECT, **rest)


ADAPTER_OPTIONS = (
    _option(
        "--lora-modules",
        "lora_modules",
        Module(),
        multiple=True,
        metavar="NAME=PATH",
        help="Adapter to load; repeat for more.",
    ),
    _option(
        "--adapter-root",
        "adapter_root",
        click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="FOLDER",
        help="From here requests may load adapters.",
    ),
    _option(
        "--max-loras",
        "max_loras",
        click.IntRange(1),
        metavar="N",
        show_default=str(COUNT),
        rare=True,
        help="Adapters that are loaded at once.",
    ),
    _option(
        "--max-lora-rank",
        "max_lora_rank",
        click.IntRange(1),
        metavar="N",
        show_default=str(RANK),
        rare=True,
        help="The largest rank that one may have.",
    ),
    _option(
        "--adapter-mem",
        "adapter_mem",
        Size(),
        show_default=MEMORY,
        rare=True,
        help="For all adapters, with combinations that requests ask for.",
    ),
)


def adapter_options(ctx: click.Context) -> AdapterOptions | None:
    """None where nothing is said about adapters."""
    from mistralrs_onnx.adapters import AdapterOptions  # slow to import
    from mistralrs_onnx.runtime.adapter_registry import AdapterCaps

    values = said(ctx)
    modules, root = by_name("--lora-modules", values["lora_modules"]), values["adapter_root"]
    caps = {"count": values["max_loras"], "rank": values["max_lora_rank"], "num_bytes": values["adapter_mem"]}
    caps = {field: cap for field, cap in caps.items() if cap is not None}
    if not (modules or root or caps):
        return None
    return AdapterOptions(modules, root=root, caps=AdapterCaps(**caps))


def adapted(loading: LoadOptions, found: Found) -> LoadOptions:
    """With what came with the model too. Raises CompileError for what does not go together."""
    from mistralrs_onnx.adapters import AdapterOptions  # slow to import

    asked, adapters = loading.adapters, found.adapters
    if asked is not None and not (asked.modules or asked.root or adapters.loaded or _has_adapters(found.package)):
        raise CompileError("there are caps of adapters, and no adapters: add --lora-modules or --adapter-root")
    loading = replace(
        loading,
        tgt_non_granular_index=found.tgt_non_granular_index,
        repeat_last_n=found.repeat_last_n,
        speculate=loading.speculate or found.speculate,
    )
    if not adapters.loaded:
        return loading
    asked = asked or AdapterOptions()
    for name in adapters.loaded.keys() & asked.modules.keys():
        raise CompileError(f"--lora-modules has an adapter {name}, and the ordering file another: name it otherwise")
    modules = {**adapters.loaded, **asked.modules}
    return replace(loading, adapters=replace(asked, modules=modules, active=adapters.active))


def _has_adapters(package: Path) -> bool:
    """Of its own, to load or to mix."""
    from mistralrs_onnx.runtime.package import open_package  # slow to import

    manifest = open_package(package).manifest
    return bool(manifest.adapters or manifest.xlora)
