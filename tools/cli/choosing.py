"""Makes of options which checkpoint is meant, and how it is compiled; slow to import, so help does without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.isq_map import parse_type, read_isq_map
from mistralrs_onnx.compiler.sources.token_source import parse_token_source
from mistralrs_onnx.compiler.templates.find import find_template
from mistralrs_onnx.selector import Selection, read_selector, select
from mistralrs_onnx.sources.adapter_source import AdapterSource
from mistralrs_onnx.sources.source import Kind, ModelSource
from mistralrs_onnx.sources.xlora_source import XLoraSource
from mistralrs_onnx.which import Chosen, Defaults, chosen, non_granular_index

from .command_line import SELECTOR
from .option import said
from .params import by_name
from .selector_options import Selected


def choose_selected(ctx: click.Context) -> tuple[Chosen, Selected]:
    """What a file says, and of any model the command line. Raises CompileError."""
    values, selection = said(ctx), _read(ctx)
    defaults = Defaults(compile_options(values), parse_token_source(values["token_source"]), values["offline"])
    which, draft = selection.which, None if selection.draft is None else chosen(selection.draft, defaults)
    return chosen(which, defaults), Selected(non_granular_index(which), which.repeat_last_n, draft, selection.gamma)


def _read(ctx: click.Context) -> Selection:
    """A configuration file was read already."""
    path, config = said(ctx)["file"], said(ctx).get("config")
    if path != config:
        return read_selector(path)
    try:
        return select(ctx.meta[SELECTOR])
    except CompileError as error:
        raise CompileError(f"{path}: {error}") from error


def choose(kind: Kind, values: Mapping[str, Any]) -> Chosen:
    """Raises CompileError for what cannot be meant."""
    adapters = xlora = None
    if values.get("adapters_model_id") is not None:
        adapters = AdapterSource(values["adapters_model_id"], values["order"])
    if values.get("xlora_model_id") is not None:
        xlora = XLoraSource(values["xlora_model_id"], values["order"], by_name("--adapter", values["places"]))
    source = ModelSource(
        kind,
        values["model"] or _base(adapters or xlora),
        filename=values.get("filename"),
        tokenizer=values.get("tokenizer_json") or values.get("tokenizer"),
        revision=values.get("revision"),
        token_source=parse_token_source(values["token_source"]),
        offline=values["offline"],
        adapters=adapters,
        xlora=xlora,
    )
    return Chosen(source, compile_options(values))


def _base(adapters: AdapterSource | XLoraSource | None) -> str:
    ordering = None if adapters is None else adapters.read_order()
    if ordering is None:
        raise CompileError("which model? Name it with -m, or an ordering file that has its base_model_id with --order")
    return ordering.base_model_id


def compile_options(values: Mapping[str, Any]) -> CompileOptions:
    """As far as it is said before the subcommand, and after it if that is read already. Raises CompileError."""
    template = values.get("chat_template")
    reading = Reading(
        arch=values.get("arch"),
        pre=values.get("pre"),
        chat_template=None if template is None else find_template(template),
        gqa=values.get("gqa", 1),
    )
    dtype, merge_dtype = values.get("dtype", "auto"), values.get("merge_dtype")
    return CompileOptions(dtype=dtype, isq=_isq(values), reading=reading, merge_dtype=merge_dtype)


def _isq(values: Mapping[str, Any]) -> Isq:
    rules = () if values["isq_map"] is None else read_isq_map(values["isq_map"])
    if values["isq"] is None and values["block_size"] is not None:
        raise click.UsageError("--block-size is of --isq int4 and int8, and there is no --isq: add it")
    kind = None if values["isq"] is None else parse_type(values["isq"], values["block_size"])
    return Isq(kind, rules, requantize=values["requantize"])
