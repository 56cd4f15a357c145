"""Where options may be set beside the command line, and what else is read from the environment."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mistralrs_onnx.selector import KINDS, SHARED
from mistralrs_onnx.tools.bench import main as bench
from mistralrs_onnx.tools.cli.config_file import settable
from mistralrs_onnx.tools.cli.option import long_names, variable
from mistralrs_onnx.tools.compile import main as compile_
from mistralrs_onnx.tools.serve import main as serve

from .text import block, code, table

GROUPS: dict[str, click.Group] = {"server": serve, "bench": bench, "compile": compile_}
ABOVE = """# Configuration

An option is taken from the first of these that has it: the command line, the environment, the TOML file that
`--config` names, what the model's package recommends, the default. `--print-config` shows every option with its value
and where that comes from.

"""
SAMPLE = """
# mistralrs-server --config server.toml
port = 1234
max-seqs = 8
kv-mem = "4GiB"

[model]                     # which model, as in a file for `toml -f`; leave it out to name one on the command line
quantized_model_id = "models"
quantized_filename = "model.Q4_K_M.gguf"

[speculative]               # optional: a smaller model of the same vocabulary guesses up to gamma tokens
gamma = 16
[speculative.draft_model]
quantized_model_id = "models"
quantized_filename = "draft.Q4_K_M.gguf"
"""
OTHERS = {
    "MISTRALRS_CACHE": "Folder of packages that were compiled on the way; ~/.cache/mistralrs-onnx without it.",
    "MISTRALRS_DEBUG": "1: commands log what they do, each step of the engine among it, on standard error.",
    "MISTRALRS_KERNEL_ISA": "amx, avx512, avxvnni or avx2: what our kernels use instead of the fastest that there is.",
    "HF_ENDPOINT": "The hub to ask instead of the public one.",
    "HF_HOME": "Where files of the hub, and its token, are kept.",
    "HF_TOKEN": "Token of the hub, with `--token-source cache`, before the one that is kept.",
    "HF_HUB_OFFLINE": "1: ask no hub, as `--offline`.",
    "HF_HUB_CACHE": "Where files of the hub are kept, before `HF_HOME`.",
    "XDG_CACHE_HOME": "Of it, folder huggingface, where neither is set.",
    "OPENAI_API_KEY": "What `mistralrs-bench http` shows a server.",
    "NO_COLOR": "Anything: no colours in the terminal.",
}


def page() -> str:
    return (
        ABOVE
        + block(SAMPLE.strip(), "toml")
        + "\n## Options\n\n"
        + table(["variable", "key", "of"], _options())
        + "\nA table named as a subcommand has its options: `[gguf]`, `[plain]` and so on.\n\n"
        + "## Other variables\n\n"
        + table(["variable", ""], [(code(name), text) for name, text in OTHERS.items()])
        + "\n## Which model: `[model]`\n\n"
        + "The kind shows in the keys that are there; `kind` says it where it does not.\n\n"
        + table(["kind", "needs", "may have"], _kinds())
        + f"\nAll may have {', '.join(map(code, SHARED))}.\n"
    )


def _options() -> Iterator[tuple[str, str, str]]:
    of: dict[str, list[str]] = {}
    for group, command in GROUPS.items():
        for param in settable(command):
            if not param.hidden:
                for name in long_names(param):
                    of.setdefault(name, []).append(group)
    for name, groups in of.items():
        yield code(variable(name)), code(name), ", ".join(groups)


def _kinds() -> Iterator[tuple[str, str, str]]:
    for kind, keys in KINDS.items():
        yield code(kind), ", ".join(map(code, keys.needed)), ", ".join(map(code, keys.optional))
