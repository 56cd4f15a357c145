"""Where an X-LoRA is: a folder, or a repository of the hub of which only what is needed is fetched."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from mistralrs_onnx.compiler.adapters.ordering import Ordering, read_ordering
from mistralrs_onnx.compiler.adapters.xlora import XLORA_CLASSIFIER, XLORA_CONFIG, ToMix, find_xlora
from mistralrs_onnx.compiler.adapters.xlora_config import read_xlora_config
from mistralrs_onnx.compiler.sources.wanted import ADAPTER, Wanted

from .adapter_source import Fetch

logger = logging.getLogger(__name__)

CLASSIFIER = tuple(name.rpartition(".")[0] for name in (XLORA_CONFIG, XLORA_CLASSIFIER))  # in any folder


@dataclass(frozen=True, slots=True)
class XLoraSource:
    """`model`: a folder, or a repository of the hub. `order`: the ordering file. `adapters`: folders of those that lie
    elsewhere, by name, as of what PEFT saves.
    """

    model: str
    order: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)

    def read_order(self) -> Ordering | None:
        """Raises CompileError."""
        return None if self.order is None else read_ordering(self.order)


def locate_xlora(source: XLoraSource, ordering: Ordering | None, fetch: Fetch) -> ToMix:
    """The classifier is fetched first, for its config may say which adapters there are.

    PEFT saves layers of its classifier among those of adapters 0, 1, ..., so that these are fetched wherever the
    adapters are. Raises CompileError.
    """
    if ordering is not None and ordering.preload_adapters:
        logger.warning(
            "%s: preload_adapters are not of X-LoRA, they are left out: it mixes those of order", source.order
        )
    folder = fetch(source.model, _wanted())
    config = read_xlora_config(find_xlora(folder).config)
    names = config.adapters if ordering is None or ordering.order is None else ordering.order
    missing = [name for name in names if name not in source.adapters]
    ends = [PurePath(config.adapters.get(name, "").replace("\\", "/")).name for name in missing]
    moved = [f"{number}/adapter_model" for number in range(len(names))] if config.layout == "peft" else []
    if missing or moved:
        folder = fetch(source.model, _wanted(*missing, *filter(None, ends), *moved))
    return ToMix(folder, source.order, adapters=source.adapters)


def _wanted(*adapters: str) -> Wanted:
    return Wanted("an X-LoRA", optional=ADAPTER.files, adapters=(*CLASSIFIER, *adapters))
