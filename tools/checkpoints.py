"""Options that name a checkpoint and say how it is compiled, the same for every command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import click

from mistralrs_onnx.adapter_source import AdapterSource
from mistralrs_onnx.compiler.adapters.merge import MERGE_DTYPES
from mistralrs_onnx.compiler.archs import ARCHS
from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import DTYPES, CompileOptions
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.isq_map import parse_type, read_isq_map
from mistralrs_onnx.compiler.sources.token_source import GRAMMAR, parse_token_source
from mistralrs_onnx.compiler.templates.find import NAMES, find_template
from mistralrs_onnx.source import Kind, ModelSource
from mistralrs_onnx.xlora_source import XLoraSource

from .failures import reported
from .params import Module, by_name

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

GATHERED = f"{__name__}.gathered"  # key of a click context's notes


class Chosen(NamedTuple):
    """A checkpoint, and how it is compiled."""

    source: ModelSource
    options: CompileOptions


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Options that every command has need not be a parameter of each."""
    ctx.meta.setdefault(GATHERED, {})[param.name] = value


def _option(*names: str, **rest: Any) -> Decorator:
    return click.option(*names, expose_value=False, callback=_keep, **rest)


EXISTING = click.Path(path_type=Path, exists=True)
TEMPLATE = _option("-c", "--chat-template", metavar="NAME", help=f"A file, or {', '.join(NAMES)}.")
GLOBAL = (
    _option("--isq", metavar="TYPE", help="Quantize: Q4_0 ... Q8K, 2 3 4 5 6 8, int4, int8."),
    _option("--block-size", type=int, metavar="N", help="Of int4 and int8: 16 to 256."),
    _option("--isq-map", type=EXISTING, metavar="FILE", help="Patterns and types, for some matrices."),
    _option("--requantize", is_flag=True, help="Quantize what is quantized already, too."),
    _option("--token-source", default="cache", metavar="SOURCE", help=f"Hub token: {GRAMMAR}."),
    _option("--offline", is_flag=True, help="Ask no hub; what was fetched before serves."),
)
MODEL = _option("-m", "--model-id", "model", required=True, help="Folder, or repository of the hub.")
FILE_MODEL = _option("-m", "--quantized-model-id", "model", required=True, help="Folder, or repository of the hub.")
FILE = _option("-f", "--quantized-filename", "filename", required=True, help="File in it.")
REVISION = _option("--revision", help="Branch, tag or commit of the repository.")
TOKENIZER = _option("-t", "--tok-model-id", "tokenizer", help="Folder or repository with the tokenizer to use.")
TOKENIZER_FILE_T = _option("-t", "--tokenizer-json", help="The tokenizer.json to use.")
TOKENIZER_FILE = _option("--tokenizer-json", help="The tokenizer.json to use.")
ARCH_HELP = f"Before what the checkpoint says: {', '.join(ARCHS)}."
ARCH = _option("-a", "--arch", metavar="NAME", help=ARCH_HELP)
LONG_ARCH = _option("--arch", metavar="NAME", help=ARCH_HELP)
DTYPE = _option(
    "-d",
    "--dtype",
    type=click.Choice(list(DTYPES)),
    default="auto",
    show_default=True,
    help="Of dense weights; auto: as they are, on CPUs.",
)
PRE = _option("--pre", metavar="NAME", help="How text is cut into words, before what the file says.")
GQA = _option("-g", "--gqa", type=click.IntRange(1), default=1, show_default=True, help="Heads that share a key head.")
BASE = _option("-m", "--model-id", "model", help="Folder, or repository; else base_model_id of the ordering file.")
ADAPTERS = (
    _option("-a", "--adapters-model-id", required=True, help="Folder or repository of the adapters."),
    _option(
        "--merge-dtype",
        type=click.Choice(list(MERGE_DTYPES)),
        help="Of weights that adapters change; else they keep their type.",
    ),
)
XLORA = (
    _option("-x", "--xlora-model-id", required=True, help="Folder or repository of classifier and adapters."),
    _option(
        "--adapter",
        "places",
        type=Module(),
        multiple=True,
        metavar="NAME=PATH",
        help="One of its adapters that lies elsewhere, as PEFT wants it; repeat for more.",
    ),
)
Family = Literal["lora", "x-lora"]
ORDER_HELP: dict[Family, str] = {
    "lora": "Ordering file: which adapters; without it, -a is one of PEFT.",
    "x-lora": "Ordering file: adapters in order, numbers of layers; else as PEFT has them.",
}


class Checkpoint(NamedTuple):
    """A subcommand: what it reads, what its help says, its options, and what kind of adapters it takes."""

    kind: Kind
    text: str
    options: tuple[Decorator, ...]
    family: Family | None = None


MIXED = "; adapters become part of it, and a classifier mixes them for each token."
ADAPTED = "; adapters are merged into it, or loaded where the ordering file has preload_adapters."
PLAIN_TEXT = "A folder or repository of safetensors, config.json and tokenizer"
GGUF_TEXT = "A GGUF file; its quantization is kept exactly. Of a split one, name the first part"
GGML_TEXT = "A llama file from before GGUF (ggml, ggmf, ggjt)"
PLAIN_OPTIONS = (_option("-t", "--tokenizer-json", help="The tokenizer.json to use."), DTYPE, REVISION)
GGUF_OPTIONS = (FILE_MODEL, FILE, TOKENIZER, TOKENIZER_FILE, PRE, DTYPE, REVISION)
GGML_OPTIONS = (FILE_MODEL, FILE, TOKENIZER, TOKENIZER_FILE, GQA, DTYPE, REVISION)
COMMANDS = {
    "plain": Checkpoint("plain", f"{PLAIN_TEXT}.", (MODEL, ARCH, *PLAIN_OPTIONS)),
    "lora": Checkpoint("plain", PLAIN_TEXT + ADAPTED, (BASE, *ADAPTERS, LONG_ARCH, *PLAIN_OPTIONS), "lora"),
    "x-lora": Checkpoint("plain", PLAIN_TEXT + MIXED, (BASE, *XLORA, ARCH, *PLAIN_OPTIONS), "x-lora"),
    "gguf": Checkpoint("gguf", f"{GGUF_TEXT}.", (*GGUF_OPTIONS, ARCH)),
    "lora-gguf": Checkpoint("gguf", GGUF_TEXT + ADAPTED, (*GGUF_OPTIONS, *ADAPTERS, LONG_ARCH), "lora"),
    "x-lora-gguf": Checkpoint("gguf", GGUF_TEXT + MIXED, (*GGUF_OPTIONS, *XLORA, ARCH), "x-lora"),
    "ggml": Checkpoint("ggml", f"{GGML_TEXT}.", GGML_OPTIONS),
    "lora-ggml": Checkpoint("ggml", GGML_TEXT + ADAPTED, (*GGML_OPTIONS, *ADAPTERS), "lora"),
    "x-lora-ggml": Checkpoint("ggml", GGML_TEXT + MIXED, (*GGML_OPTIONS, *XLORA), "x-lora"),
}


class Commands(click.Group):
    """A group whose help has one line for each kind of checkpoint."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines: dict[str, list[str]] = {}
        for name in self.commands:
            lines.setdefault(COMMANDS[name].kind if name in COMMANDS else name, []).append(name)
        with formatter.section("Commands"):
            formatter.write_dl(
                [(", ".join(names), self.commands[first].get_short_help_str(80)) for first, names in lines.items()]
            )


def checkpoint_options(*, chat_template: bool = True) -> Decorator:
    """What stands before the subcommand."""

    def decorate(command: Command) -> Command:
        for option in reversed((*([TEMPLATE] if chat_template else []), *GLOBAL)):
            command = option(command)
        return command

    return decorate


def add_checkpoints(
    group: click.Group,
    run: Callable[[Any, Chosen], None],
    extra: tuple[Decorator, ...] = (),
    adapted: Mapping[Family, tuple[Decorator, ...]] = MappingProxyType({}),
    order: tuple[str, ...] = ("-o", "--order"),
) -> None:
    """Adds the subcommands that name a checkpoint. They call `run` with the group's context object.

    `extra`: options of all; `adapted`: of those that take adapters. `order`: what the ordering file is called.
    """
    for name, checkpoint in COMMANDS.items():
        options, family = list(checkpoint.options), checkpoint.family
        if family is not None:
            options += [_option(*order, type=EXISTING, metavar="FILE", help=ORDER_HELP[family])]
            options += adapted.get(family, ())
        _add(group, name, checkpoint, [*options, *extra], run)


def _add(
    group: click.Group,
    name: str,
    checkpoint: Checkpoint,
    options: Sequence[Decorator],
    run: Callable[[Any, Chosen], None],
) -> None:
    def callback(ctx: click.Context) -> None:
        with reported():
            run(ctx.obj, choose(checkpoint.kind, ctx.meta[GATHERED]))

    command: Command = click.pass_context(callback)
    for option in reversed(options):
        command = option(command)
    group.command(name, help=checkpoint.text)(command)


def chosen_options(ctx: click.Context) -> CompileOptions:
    """How to compile, as far as it is said before the subcommand. Raises CompileError."""
    return _options(ctx.meta[GATHERED])


def choose(kind: Kind, said: Mapping[str, Any]) -> Chosen:
    """Raises CompileError for what cannot be meant."""
    adapters = xlora = None
    if said.get("adapters_model_id") is not None:
        adapters = AdapterSource(said["adapters_model_id"], said["order"])
    if said.get("xlora_model_id") is not None:
        xlora = XLoraSource(said["xlora_model_id"], said["order"], by_name("--adapter", said["places"]))
    source = ModelSource(
        kind,
        said["model"] or _base(adapters or xlora),
        filename=said.get("filename"),
        tokenizer=said.get("tokenizer_json") or said.get("tokenizer"),
        revision=said.get("revision"),
        token_source=parse_token_source(said["token_source"]),
        offline=said["offline"],
        adapters=adapters,
        xlora=xlora,
    )
    return Chosen(source, _options(said))


def _base(adapters: AdapterSource | XLoraSource | None) -> str:
    ordering = None if adapters is None else adapters.read_order()
    if ordering is None:
        raise CompileError("which model? Name it with -m, or an ordering file that has its base_model_id with --order")
    return ordering.base_model_id


def _options(said: Mapping[str, Any]) -> CompileOptions:
    template = said.get("chat_template")
    reading = Reading(
        arch=said.get("arch"),
        pre=said.get("pre"),
        chat_template=None if template is None else find_template(template),
        gqa=said.get("gqa", 1),
    )
    return CompileOptions(
        dtype=said.get("dtype", "auto"), isq=_isq(said), reading=reading, merge_dtype=said.get("merge_dtype")
    )


def _isq(said: Mapping[str, Any]) -> Isq:
    rules = () if said["isq_map"] is None else read_isq_map(said["isq_map"])
    kind = None if said["isq"] is None else parse_type(said["isq"], said["block_size"])
    return Isq(kind, rules, requantize=said["requantize"])
