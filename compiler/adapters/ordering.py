"""Ordering files: which adapters of a repository belong together, in which order, and how X-LoRA numbers layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from mistralrs_onnx.compiler.archs.arch import Arch
from mistralrs_onnx.compiler.checkpoints.source import about
from mistralrs_onnx.compiler.checkpoints.strict_json import parse_object
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.naming import Shape
from mistralrs_onnx.compiler.tokenizer.json_files import read_file

from .files import AdapterFiles, check_name, find_adapters, in_folder
from .modules import find_modules

logger = logging.getLogger(__name__)

MAX_ORDERING = 16 << 20  # bytes
KEYS = ("order", "layers", "base_model_id", "preload_adapters")


class Preload(NamedTuple):
    """An adapter to load beside those of the order, and the repository or folder that has it."""

    name: str
    adapter_model_id: str


@dataclass(frozen=True, slots=True)
class Ordering:
    """`order`: names of adapters; None where the file does not say, which is not the same as none.

    `layers`: X-LoRA's number of each linear layer by its Hugging Face name; empty where all have number 0.
    """

    base_model_id: str
    order: tuple[str, ...] | None = None
    layers: Mapping[str, int] = field(default_factory=dict)
    preload_adapters: tuple[Preload, ...] = ()


def read_ordering(path: Path) -> Ordering:
    """Raises CompileError, which names the file and the key."""
    with about(path):
        values = parse_object(read_file(path, MAX_ORDERING), "file")
    try:
        return parse_ordering(values)
    except CompileError as error:
        raise CompileError(f"{path}: {error}") from error


def parse_ordering(values: Mapping[str, Any]) -> Ordering:
    for key in values.keys() - set(KEYS):
        near = get_close_matches(key[:80], KEYS, 1)
        logger.warning("ordering file: key %s is not known%s", key[:80], f", is it {near[0]}?" if near else "")
    return Ordering(
        base_model_id=_text(values.get("base_model_id"), "base_model_id"),
        order=None if values.get("order") is None else _order(values["order"]),
        layers=_layers(values.get("layers")),
        preload_adapters=_preloads(values.get("preload_adapters")),
    )


def check_identity(ordering: Ordering, base: str | None, classifier: str | None = None) -> None:
    """Raises CompileError unless ordering file, base and X-LoRA config (`classifier`) speak of one model.

    They must be spelled alike, local paths too. None is not checked.
    """
    for what, other in (("the base model", base), ("the X-LoRA config", classifier)):
        if other is not None and other.rstrip("/") != ordering.base_model_id.rstrip("/"):
            raise CompileError(
                f"the ordering file is for the base {ordering.base_model_id}, {what} is {other}: give the base as the"
                " file spells it, or change base_model_id in the file"
            )


def ordered_adapters(root: Path, ordering: Ordering | None) -> tuple[AdapterFiles, ...]:
    """The adapters of `order` in a repository's folder. Without an ordering file the folder is the adapter."""
    if ordering is None:
        return (in_folder(root),)
    return find_adapters(root, ordering.order or ())


def layer_numbers(ordering: Ordering, arch: Arch, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """X-LoRA's number of each linear layer by canonical name; those that were fused have the same.

    Raises CompileError for a layer that the base does not have.
    """
    modules = find_modules(ordering.layers, arch.hf_naming, shapes)
    return {member.name: ordering.layers[name] for name, module in modules.items() for member in module.members}


def _text(value: object, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise CompileError(f"{key} must be a string, got {repr(value)[:80]}")
    return value


def _order(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CompileError(f"order must be a list of adapter names, got {repr(value)[:80]}")
    for name in value:
        check_name(name)
        if value.count(name) > 1:
            raise CompileError(f"order must name each adapter once, got {name} twice")
    return tuple(value)


def _layers(value: object) -> dict[str, int]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CompileError(f"layers must be an object of layer names and numbers, got {repr(value)[:80]}")
    for name, number in value.items():
        if type(number) is not int or not 0 <= number < len(value):
            raise CompileError(f"layers must have numbers from 0 to {len(value) - 1}, got {number!r} for {name[:80]}")
    return dict(value)


def _preloads(value: object) -> tuple[Preload, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise CompileError(f"preload_adapters must be a list, got {repr(value)[:80]}")
    return tuple(_preload(each) for each in value)


def _preload(value: object) -> Preload:
    if not isinstance(value, dict) or set(value) != set(Preload._fields):
        raise CompileError(f"preload_adapters must be objects of name and adapter_model_id, got {repr(value)[:80]}")
    name = _text(value["name"], "name of preload_adapters")
    check_name(name)
    return Preload(name, _text(value["adapter_model_id"], f"adapter_model_id of {name}"))
