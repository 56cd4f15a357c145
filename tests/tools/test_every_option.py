"""Every option of the three commands is read: it changes what is handed on, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_lines import MAINS, handed_on, invoke

from mistralrs_onnx.tools.cli.command_line import CONFIG, HELP_ALL, PRINT_CONFIG
from mistralrs_onnx.tools.cli.option import long_names, variable
from mistralrs_onnx.tools.cli.params import Module, Size

# Tested in test_command_line.py, and below.
ELSEWHERE = {*CONFIG.opts, *HELP_ALL.opts, *PRINT_CONFIG.opts, "--version", "--num-device-layers"}
OTHERS = ("vision-plain", "http")  # run no model: the one is refused, the other has tests of its own
NEEDED = {  # for a subcommand to be reached
    "gguf": "-m folder -f file.gguf",
    "ggml": "-m folder -f file.bin",
    "plain": "-m folder",
    "lora": "-m folder -a adapter",
    "lora-gguf": "-m folder -f file.gguf -a adapter",
    "lora-ggml": "-m folder -f file.bin -a adapter",
    "x-lora": "-m folder -x mixed",
    "x-lora-gguf": "-m folder -f file.gguf -x mixed",
    "x-lora-ggml": "-m folder -f file.bin -x mixed",
    "compiled": "-m folder",
    "toml": "-f selector.toml",
    "demo": "",
}
BESIDE = {  # without which an option means nothing
    "--gamma": ["--prompt-lookup"],
    "--fixed-gamma": ["--prompt-lookup"],
    "--block-size": ["--isq", "int4"],
}
VALUES = {  # where the type of a value says too little
    "--isq": "q8_0",
    "--chat-template": "chatml",
    "--token-source": "none",
    "--block-size": "64",
    "--isq-map": "rules",
    "--order": "ordering.json",
    "--file": "other.toml",
    "--log": "file.log",
    "--compare": "genai",
    "--concurrency": "1,2",
    "--depth": "7",
    "--device": "cuda:1",
}


def options(command: str) -> Iterator[tuple[str | None, click.Option]]:
    main = MAINS[command]
    yield from ((None, param) for param in main.params if isinstance(param, click.Option))
    for name, subcommand in main.commands.items():
        yield from ((name, param) for param in subcommand.params if isinstance(param, click.Option))


EVERY = [
    pytest.param(command, subcommand, param, id=f"{command} {subcommand or ''} {param.opts[-1]}")
    for command in MAINS
    for subcommand, param in options(command)
    if not ELSEWHERE.intersection(param.opts) and subcommand not in OTHERS
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "rules").write_text("*.down_proj* q8_0\n")
    (tmp_path / "ordering.json").write_text('{"order": ["one"], "base_model_id": "folder"}')
    (tmp_path / "selector.toml").write_text('[model]\nmodel_id = "folder"\n')
    (tmp_path / "other.toml").write_text('[model]\nmodel_id = "other"\n')
    return tmp_path


def value_of(param: click.Option) -> str | None:
    """Another than the default; None for flags."""
    name = next((name for name in param.opts if name in VALUES), None)
    if param.is_flag:
        return None
    if name is not None:
        return VALUES[name]
    match param.type:
        case click.Choice() as choice:
            return next(str(each) for each in choice.choices if each != param.default)
        case click.IntRange() | click.INT:
            return str(param.default + 1 if isinstance(param.default, int) else 3)
        case click.FloatRange() | click.FLOAT:
            return "2.5"
        case Size():
            return "5MiB"
        case Module():
            return "one=folder"
        case click.Path(dir_okay=True):
            return "other"
    return "other"


def typed(param: click.Option) -> list[str]:
    value = value_of(param)
    return [param.opts[0]] if value is None else [param.opts[0], value]


def line(command: str, subcommand: str | None, words: list[str]) -> list[str]:
    """One that is whole, with these words before or after the subcommand, as they belong."""
    before, after = ([], words) if subcommand else (words, [])
    needed = NEEDED[subcommand or "gguf"].split()
    if command == "compile":
        needed += ["-o", "out"]
    pairs = zip(needed[::2], needed[1::2], strict=True)
    return [*before, subcommand or "gguf", *(word for pair in pairs if pair[0] not in after for word in pair), *after]


def beside(param: click.Option) -> list[str]:
    return next((BESIDE[name] for name in param.opts if name in BESIDE), [])


@pytest.mark.parametrize(("command", "subcommand", "param"), EVERY)
def test_it_is_read(command: str, subcommand: str | None, param: click.Option, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same effect from the environment, unless a line is not whole without it."""
    words = line(command, subcommand, beside(param))
    typed_out = repr(handed_on(command, *line(command, subcommand, [*beside(param), *typed(param)])))
    assert repr(handed_on(command, *words)) != typed_out
    if not set(param.opts).intersection(words):
        for name in long_names(param):
            with monkeypatch.context() as patch:
                patch.setenv(variable(name), value_of(param) or "1")
                assert repr(handed_on(command, *words)) == typed_out


@pytest.mark.parametrize("command", ["server", "bench"])
def test_no_layer_is_on_another_device(command: str) -> None:
    assert repr(handed_on(command, "-n", "0", "demo")) == repr(handed_on(command, "demo"))
    refused = invoke(command, "--num-device-layers", "8", "demo")
    assert (refused.exit_code, "all layers run on one device" in refused.output) == (2, True)
