"""Options that name a checkpoint and say how it is compiled, the same for every command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click
from click.core import ParameterSource

from mistralrs_onnx.compiler.errors import CompileError

from .command_line import Group, example
from .failures import reported
from .option import Decorator, decorated, option, said
from .params import Module
from .selector_options import FILE as SELECTOR
from .selector_options import TEXT as SELECTOR_TEXT
from .selector_options import Selected

if TYPE_CHECKING:
    from mistralrs_onnx.compiler.compile import CompileOptions
    from mistralrs_onnx.sources.source import Kind
    from mistralrs_onnx.which import Chosen

# What the compiler knows, which is slow to import: tests hold these equal to its own.
ARCHS = (
    "llama, mistral, mixtral, gemma, gemma2, gemma3, phi2, phi3, qwen2, qwen2_moe, qwen3, qwen3_moe, smollm3, "
    "starcoder2, olmo2, granite, gpt_oss"
)
DTYPES, MERGE_DTYPES = ("auto", "f32", "f16", "bf16"), ("f32", "f16", "bf16")
TEMPLATES = "chatml, default, llama2, llama3, mistral, phi3"
TOKENS = "literal:VALUE, env:NAME, path:FILE, none or cache"
MODEL = "Model and quantization"  # subject


Run = Callable[[Any, "Chosen", Selected], None]
EXISTING = click.Path(path_type=Path, exists=True)
TEMPLATE = option("-c", "--chat-template", metavar="NAME", subject=MODEL, help=f"A file, or {TEMPLATES}.")
GLOBAL = (
    option("--isq", metavar="TYPE", subject=MODEL, help="Quantize: Q4_0 ... Q8K, 2 3 4 5 6 8, int4, int8."),
    option("--block-size", type=int, metavar="N", subject=MODEL, rare=True, help="Of int4 and int8: 16 to 256."),
    option(
        "--isq-map",
        type=EXISTING,
        metavar="FILE",
        subject=MODEL,
        rare=True,
        help="Patterns and types, for some matrices.",
    ),
    option("--requantize", is_flag=True, subject=MODEL, rare=True, help="Quantize what is quantized already, too."),
    option("--token-source", default="cache", metavar="SOURCE", subject=MODEL, help=f"Hub token: {TOKENS}."),
    option("--offline", is_flag=True, subject=MODEL, rare=True, help="Ask no hub; what was fetched before serves."),
)
COMPILING = ("chat_template", "isq", "block_size", "isq_map", "requantize", "token_source", "offline")
MODEL_ID = option("-m", "--model-id", "model", required=True, help="Folder, or repository of the hub.")
FILE_MODEL = option("-m", "--quantized-model-id", "model", required=True, help="Folder, or repository of the hub.")
FILE = option("-f", "--quantized-filename", "filename", required=True, help="File in it.")
REVISION = option("--revision", help="Branch, tag or commit of the repository.")
TOKENIZER = option("-t", "--tok-model-id", "tokenizer", help="Folder or repository with the tokenizer to use.")
TOKENIZER_FILE = option("--tokenizer-json", help="The tokenizer.json to use.")
TOKENIZER_FILE_T = option("-t", "--tokenizer-json", help="The tokenizer.json to use.")
ARCH_HELP = f"Before what the checkpoint says: {ARCHS}."
ARCH = option("-a", "--arch", metavar="NAME", help=ARCH_HELP)
LONG_ARCH = option("--arch", metavar="NAME", help=ARCH_HELP)
DTYPE = option(
    "-d",
    "--dtype",
    type=click.Choice(DTYPES, case_sensitive=False),
    default="auto",
    help="Of dense weights; auto: as they are, on CPUs.",
)
PRE = option("--pre", metavar="NAME", help="How text is cut into words, before what the file says.")
GQA = option("-g", "--gqa", type=click.IntRange(1), metavar="N", default=1, help="Heads that share a key head.")
BASE = option("-m", "--model-id", "model", help="Folder, or repository; else base_model_id of the ordering file.")
ADAPTERS = (
    option("-a", "--adapters-model-id", required=True, help="Folder or repository of the adapters."),
    option(
        "--merge-dtype",
        type=click.Choice(MERGE_DTYPES),
        help="Of weights that adapters change; else they keep their type.",
    ),
)
XLORA = (
    option("-x", "--xlora-model-id", required=True, help="Folder or repository of classifier and adapters."),
    option(
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
PLAIN_OPTIONS = (TOKENIZER_FILE_T, DTYPE, REVISION)
GGUF_OPTIONS = (FILE_MODEL, FILE, TOKENIZER, TOKENIZER_FILE, PRE, DTYPE, REVISION)
GGML_OPTIONS = (FILE_MODEL, FILE, TOKENIZER, TOKENIZER_FILE, GQA, DTYPE, REVISION)
EXAMPLES = {
    "plain": "-m Qwen/Qwen2.5-0.5B-Instruct",
    "lora": "-m ~/models/mistral-7b -a ~/adapters/sql",
    "x-lora": "-x lamm-mit/x-lora --order order.json",
    "gguf": "-m ~/models -f model.Q4_K_M.gguf",
    "lora-gguf": "-m models -f q4.gguf -a adapters/sql",
    "x-lora-gguf": "-m models -f q4.gguf -x xlora --order order.json",
    "ggml": "-m models -f llama-2-70b.ggmlv3.q4_0.bin -g 8",
    "lora-ggml": "-m models -f q4.bin -a adapters/sql",
    "x-lora-ggml": "-m models -f q4.bin -x xlora --order order.json",
    "toml": "-f selector.toml",
}
COMMANDS = {
    "plain": Checkpoint("plain", f"{PLAIN_TEXT}.", (MODEL_ID, ARCH, *PLAIN_OPTIONS)),
    "lora": Checkpoint("plain", PLAIN_TEXT + ADAPTED, (BASE, *ADAPTERS, LONG_ARCH, *PLAIN_OPTIONS), "lora"),
    "x-lora": Checkpoint("plain", PLAIN_TEXT + MIXED, (BASE, *XLORA, ARCH, *PLAIN_OPTIONS), "x-lora"),
    "gguf": Checkpoint("gguf", f"{GGUF_TEXT}.", (*GGUF_OPTIONS, ARCH)),
    "lora-gguf": Checkpoint("gguf", GGUF_TEXT + ADAPTED, (*GGUF_OPTIONS, *ADAPTERS, LONG_ARCH), "lora"),
    "x-lora-gguf": Checkpoint("gguf", GGUF_TEXT + MIXED, (*GGUF_OPTIONS, *XLORA, ARCH), "x-lora"),
    "ggml": Checkpoint("ggml", f"{GGML_TEXT}.", GGML_OPTIONS),
    "lora-ggml": Checkpoint("ggml", GGML_TEXT + ADAPTED, (*GGML_OPTIONS, *ADAPTERS), "lora"),
    "x-lora-ggml": Checkpoint("ggml", GGML_TEXT + MIXED, (*GGML_OPTIONS, *XLORA), "x-lora"),
}


ALIASES = {"x-lora-plain": "x-lora", "lora-plain": "lora"}
SEEING = "models that see images are not supported: plain, gguf and ggml are for models of text"


class Commands(Group):
    """A group whose help has one line for each kind of checkpoint."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, [ALIASES.get(args[0], args[0]), *args[1:]])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines: dict[str, list[str]] = {}
        for name, command in self.commands.items():
            if not command.hidden:
                lines.setdefault(COMMANDS[name].kind if name in COMMANDS else name, []).append(name)
        with formatter.section("Commands"):
            formatter.write_dl(
                [(", ".join(names), self.commands[first].get_short_help_str(80)) for first, names in lines.items()]
            )


def refuse_compiling(ctx: click.Context) -> None:
    """Raises UsageError for what is said before the subcommand of checkpoints, which a package no longer is."""
    names = [name for name in COMPILING if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if names:
        option = f"--{names[0].replace('_', '-')}"
        raise click.UsageError(f"{option} is of checkpoints, and a package is compiled already: leave it out")


def checkpoint_options(*, chat_template: bool = True) -> Decorator:
    """What stands before the subcommand."""
    return lambda command: decorated(command, (*([TEMPLATE] if chat_template else []), *GLOBAL))


def add_checkpoints(
    group: click.Group,
    run: Run,
    extra: tuple[Decorator, ...] = (),
    adapted: Mapping[Family, tuple[Decorator, ...]] = MappingProxyType({}),
    order: tuple[str, ...] = ("-o", "--order"),
    ending: str = "",
) -> None:
    """Adds the subcommands that name a checkpoint. They call `run` with the group's context object.

    `extra`: options of all; `adapted`: of those that take adapters. `order`: what the ordering file is called.
    `ending`: of examples.
    """
    for name, checkpoint in COMMANDS.items():
        options, family = list(checkpoint.options), checkpoint.family
        if family is not None:
            options += [option(*order, type=EXISTING, metavar="FILE", help=ORDER_HELP[family])]
            options += adapted.get(family, ())
        _add(group, name, checkpoint.text, [*options, *extra], _chooser(checkpoint.kind, run))
    _add(group, "toml", SELECTOR_TEXT, [SELECTOR, *extra], _selected(run))
    _add(group, "vision-plain", SEEING, [MODEL_ID, ARCH, *PLAIN_OPTIONS, *extra], _refuse)
    group.commands["vision-plain"].hidden = True
    for name, words in EXAMPLES.items():
        group.commands[name].epilog = example(words + ending)


def _add(
    group: click.Group, name: str, text: str, options: Sequence[Decorator], act: Callable[[click.Context], None]
) -> None:
    def callback(ctx: click.Context) -> None:
        with reported():
            act(ctx)

    group.command(name, help=text)(decorated(click.pass_context(callback), options))


def _chooser(kind: Kind, run: Run) -> Callable[[click.Context], None]:
    def choose(ctx: click.Context) -> None:
        from .choosing import choose  # slow to import

        run(ctx.obj, choose(kind, said(ctx)), Selected())

    return choose


def _selected(run: Run) -> Callable[[click.Context], None]:
    def choose(ctx: click.Context) -> None:
        from .choosing import choose_selected  # slow to import

        run(ctx.obj, *choose_selected(ctx))

    return choose


def _refuse(ctx: click.Context) -> None:
    raise CompileError(f"{said(ctx)['model']}: {SEEING}")


def chosen_options(ctx: click.Context) -> CompileOptions:
    """How to compile, as far as it is said before the subcommand. Raises CompileError."""
    from .choosing import compile_options  # slow to import

    return compile_options(said(ctx))
