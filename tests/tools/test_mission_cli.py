"""mistral.rs's command line as of June 2024, flag by flag: each is taken as it was typed there, and arrives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from command_lines import MAINS, handed_on, invoke

from mistralrs_onnx.compiler.archs import find_arch
from mistralrs_onnx.compiler.sources.token_source import TokenSource
from mistralrs_onnx.tools.cli.checkpoints import ALIASES


class Handed(NamedTuple):
    wanted: Any
    locate: Any


SOURCE, OPTIONS = "locate.chosen.source", "locate.chosen.options"
GLOBAL = [  # flag with its value, where it arrives, as what
    ("--serve-ip 0.0.0.0", "wanted.server.host", "0.0.0.0"),
    ("-p 8080", "wanted.server.port", 8080),
    ("--port 8080", "wanted.server.port", 8080),
    ("-l log.txt", "wanted.server.log_file", Path("log.txt")),
    ("--log log.txt", "wanted.server.log_file", Path("log.txt")),
    ("-t", "wanted.loading.engine.truncate_sequence", True),
    ("--truncate-sequence", "wanted.loading.engine.truncate_sequence", True),
    ("--max-seqs 3", "wanted.loading.engine.max_seqs", 3),
    ("--no-kv-cache", "wanted.loading.engine.kv_cache", False),
    ("-c template.json", f"{OPTIONS}.reading.chat_template", "{{ messages }}"),
    ("--chat-template template.json", f"{OPTIONS}.reading.chat_template", "{{ messages }}"),
    ("--token-source none", f"{SOURCE}.token_source", TokenSource("none")),
    ("--token-source cache", f"{SOURCE}.token_source", TokenSource("cache")),
    ("--token-source env:HF_TOKEN", f"{SOURCE}.token_source", TokenSource("env", "HF_TOKEN")),
    ("--token-source path:token", f"{SOURCE}.token_source", TokenSource("path", "token")),
    ("--token-source literal:hf_x", f"{SOURCE}.token_source", TokenSource("literal", "hf_x")),
    ("-i", "wanted.interactive", True),
    ("--interactive-mode", "wanted.interactive", True),
    ("--prefix-cache-n 16", "wanted.loading.engine.prefix_cache_n", 16),
    ("--prefix-cache-n 0", "wanted.loading.engine.prefix_cache_n", 0),
    ("-n 0", "wanted.interactive", False),  # any other number: test_every_option.py
    ("--num-device-layers 0", "wanted.interactive", False),
    *((f"--isq {name}", f"{OPTIONS}.isq.type", name) for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1")),
    *((f"--isq Q{n}K", f"{OPTIONS}.isq.type", f"Q{n}_K") for n in (2, 3, 4, 5, 6, 8)),
]


class Subcommand(NamedTuple):
    """`needed` there; `optional` there too. Each flag: its spellings, a value, and where the value arrives."""

    needed: Sequence[tuple[str, str, str]]
    optional: Sequence[tuple[str, str, str]] = ()


REPEAT = ("--repeat-last-n", "32", "locate.repeat_last_n")
TOKENIZER_T = ("-t --tokenizer-json", "tokenizer.json", f"{SOURCE}.tokenizer")
TOKENIZER = ("--tokenizer-json", "tokenizer.json", f"{SOURCE}.tokenizer")
TOK_MODEL = ("-t --tok-model-id", "repo/tokenizer", f"{SOURCE}.tokenizer")
MODEL = ("-m --model-id", "repo/model", f"{SOURCE}.model")
ARCH = ("-a --arch", "mistral", f"{OPTIONS}.reading.arch")
LONG_ARCH = ("--arch", "mistral", f"{OPTIONS}.reading.arch")
DTYPE = ("-d --dtype", "bf16", f"{OPTIONS}.dtype")
XLORA = ("-x --xlora-model-id", "repo/xlora", f"{SOURCE}.xlora.model")
LORA = ("-a --adapters-model-id", "repo/adapters", f"{SOURCE}.adapters.model")
ORDER_X = ("-o --order", "ordering.json", f"{SOURCE}.xlora.order")
ORDER = ("-o --order", "ordering.json", f"{SOURCE}.adapters.order")
INDEX = ("--tgt-non-granular-index", "5", "locate.tgt_non_granular_index")
FILE = (
    ("-m --quantized-model-id", "repo/model", f"{SOURCE}.model"),
    ("-f --quantized-filename", "model.bin", f"{SOURCE}.filename"),
)
GQA = ("-g --gqa", "8", f"{OPTIONS}.reading.gqa")
SUBCOMMANDS = {
    "plain": Subcommand((MODEL, ARCH), (TOKENIZER_T, DTYPE, REPEAT)),
    "x-lora": Subcommand((XLORA, ORDER_X, ARCH), (MODEL, TOKENIZER_T, INDEX, DTYPE, REPEAT)),
    "lora": Subcommand((LORA, ORDER, LONG_ARCH), (MODEL, TOKENIZER_T, DTYPE, REPEAT)),
    "gguf": Subcommand(FILE, (TOK_MODEL, REPEAT)),
    "x-lora-gguf": Subcommand((*FILE, XLORA, ORDER_X), (TOK_MODEL, INDEX, REPEAT)),
    "lora-gguf": Subcommand((*FILE, LORA, ORDER), (TOK_MODEL, REPEAT)),
    "ggml": Subcommand((TOK_MODEL, *FILE), (TOKENIZER, GQA, REPEAT)),
    "x-lora-ggml": Subcommand((*FILE, XLORA, ORDER_X), (TOK_MODEL, TOKENIZER, GQA, INDEX, REPEAT)),
    "lora-ggml": Subcommand((*FILE, LORA, ORDER), (TOK_MODEL, TOKENIZER, GQA, REPEAT)),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (tmp_path / "ordering.json").write_text(json.dumps({"order": ["one"], "base_model_id": "repo/base"}))


def arrived(*words: str) -> Handed:
    return Handed(*handed_on("server", *words))


@pytest.mark.parametrize(("words", "where", "value"), GLOBAL)
def test_flags_before_the_subcommand(words: str, where: str, value: object) -> None:
    assert attrgetter(where)(arrived(*words.split(), "gguf", "-m", "folder", "-f", "x.gguf")) == value


@pytest.mark.parametrize("spelling", [0, -1], ids=["short", "long"])
@pytest.mark.parametrize("name", [*SUBCOMMANDS, *ALIASES])
def test_subcommands(name: str, spelling: int) -> None:
    """All flags of one at once; then what is needed alone; then each that is not, beside that."""
    needed, optional = SUBCOMMANDS[ALIASES.get(name, name)]
    least = [word for flag, value, _ in needed for word in (flag.split()[spelling], value)]
    arrived(name, *least)
    for flag, value, where in optional:
        found = attrgetter(where)(arrived(name, *least, flag.split()[spelling], value))
        assert str(found) == value
    for _, value, where in needed:
        assert str(attrgetter(where)(arrived(name, *least))) == value


def test_without_a_model_an_ordering_file_names_it() -> None:
    for words in (["x-lora", "-x", "repo/xlora", "-a", "llama"], ["lora", "-a", "repo/adapters", "--arch", "llama"]):
        assert arrived(*words, "-o", "ordering.json").locate.chosen.source.model == "repo/base"


@pytest.mark.parametrize("name", ["mistral", "gemma", "mixtral", "llama", "phi2", "phi3", "qwen2"])
def test_architectures(name: str) -> None:
    assert arrived("plain", "-m", "folder", "-a", name).locate.chosen.options.reading.arch == name
    assert find_arch(name).name == name


@pytest.mark.parametrize("dtype", ["auto", "bf16", "f16", "f32", "BF16"])
def test_dtypes_in_any_case(dtype: str) -> None:
    assert arrived("plain", "-m", "folder", "-d", dtype).locate.chosen.options.dtype == dtype.lower()


@pytest.mark.parametrize("flag", ["-f", "--file"])
def test_toml(flag: str) -> None:
    Path("selector.toml").write_text('[model]\nmodel_id = "repo/model"\narch = "mistral"\n')
    for command in MAINS:
        words = ["-o", "out"] if command == "compile" else []
        assert "'repo/model'" in repr(handed_on(command, "toml", flag, "selector.toml", *words))


@pytest.mark.parametrize("command", MAINS)
def test_models_that_see_are_refused_by_name(command: str) -> None:
    flags = ["-m", "repo/phi3v", "-a", "phi3v", "-t", "tokenizer.json", "-d", "bf16"]
    result = invoke(command, "vision-plain", *flags)
    assert (result.exit_code, "repo/phi3v: models that see images are not supported" in result.output) == (4, True)
    if command != "compile":
        assert invoke(command, "vision-plain", *flags, "--repeat-last-n", "32").exit_code == 4


def test_no_flag_of_this_table_is_missing_from_a_command() -> None:
    """What has to do with running a model is of the commands that run one."""
    for command, main in MAINS.items():
        for name, (needed, optional) in SUBCOMMANDS.items():
            subcommand = main.commands[name]
            known = {
                spelling for param in subcommand.params if isinstance(param, click.Option) for spelling in param.opts
            }
            wanted = {spelling for flag, _, _ in (*needed, *optional) for spelling in flag.split()}
            if command == "compile":
                wanted -= {"--repeat-last-n", "--tgt-non-granular-index"}
            assert wanted <= known
