"""`run` as it is typed: what is on standard output, what beside it, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from golden import read_golden
from terminal import terminal
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder

from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.compiler.templates.find import find_template
from mistralrs_onnx.tools.run import run

COMMAND = [sys.executable, "-c", "from mistralrs_onnx.tools.run import run; run()"]
GREEDY = ["--temperature", "0", "--max-tokens", "8"]


@pytest.fixture(scope="module")
def bare(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A package without a chat template."""
    folder = tmp_path_factory.mktemp("run")
    return str(compile_gguf(tiny_llama(folder / "tiny.gguf").write(), folder / "package"))


@pytest.fixture(scope="module")
def package(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    options = CompileOptions(reading=Reading(chat_template=find_template("chatml")))
    return str(compile_gguf(tiny_llama(folder / "tiny.gguf").write(), folder / "package", options))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))


def invoke(*arguments: str, typed: str | bytes | None = None) -> Result:
    return CliRunner().invoke(run, arguments, input=typed)


def told(*arguments: str, typed: str | None = None) -> dict[str, Any]:
    result = invoke(*arguments, "--json", typed=typed)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_standard_output_is_the_answer_alone(package: str) -> None:
    done = subprocess.run([*COMMAND, package, "ab", "--stats", *GREEDY], capture_output=True, text=True, check=True)
    answer = told(package, "ab", *GREEDY)
    assert done.stdout == answer["text"] != ""
    assert re.fullmatch(r"\[\d+ prompt tokens, 8 tokens, .* tokens/s, .*, seed \d+, finish: length\]\n", done.stderr)


def test_json_is_one_object(package: str) -> None:
    result = invoke(package, "ab", "--json", "--max-tokens", "8", "--seed", "3")
    answer = json.loads(result.stdout)
    assert list(answer) == ["model", "text", "finish_reason", "stop_reason", "seed", "usage", "timings"]
    assert (answer["finish_reason"], answer["stop_reason"], answer["seed"]) == ("length", None, 3)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert answer["timings"]["tokens_per_second"] > 0
    assert result.stderr == ""


def test_the_seed_that_is_told_gives_the_answer_again(package: str) -> None:
    first = told(package, "ab", "--temperature", "3", "--max-tokens", "8")
    again = told(package, "ab", "--temperature", "3", "--max-tokens", "8", "--seed", str(first["seed"]))
    assert again["text"] == first["text"]
    assert told(package, "ab", "--temperature", "3", "--max-tokens", "8")["text"] != first["text"]


def test_the_prompt_may_come_from_standard_input(package: str) -> None:
    answer = told(package, "a b", *GREEDY)
    for arguments, typed in (((), "a b"), (("-",), "a b\n"), ((), "a b\r\n")):
        piped = told(package, *arguments, *GREEDY, typed=typed)
        assert (piped["text"], piped["usage"]) == (answer["text"], answer["usage"])


def test_a_system_text_and_the_template_are_part_of_the_prompt(package: str) -> None:
    counts = [
        told(package, "ab", *GREEDY, *options)["usage"]["prompt_tokens"]
        for options in (["--raw"], [], ["--system", "x"])
    ]
    assert counts == sorted(set(counts))
    assert counts[0] == 1


def test_a_model_without_a_template_continues_the_prompt_and_says_so(bare: str) -> None:
    result = invoke(bare, "ab", *GREEDY)
    assert result.exit_code == 0
    assert result.stderr == "note: tiny has no chat template: it continues the prompt as it is (--raw)\n"
    raw = invoke(bare, "ab", "--raw", *GREEDY)
    assert (raw.stdout, raw.stderr) == (result.stdout, "")
    refused = invoke(bare, "ab", "--system", "x")
    assert (refused.exit_code, "leave it out" in refused.stderr, refused.stdout) == (1, True, "")
    refused = invoke(bare, "-i")
    assert (refused.exit_code, "cannot chat" in refused.stderr) == (1, True)


def test_an_answer_stops_and_keeps_to_grammars(package: str) -> None:
    digits = told(package, "ab", "--grammar", "regex:[0-9]{6}")
    assert (re.fullmatch("[0-9]{6}", digits["text"]) is not None, digits["finish_reason"]) == (True, "stop")
    stopped = told(package, "ab", "--grammar", "regex:1234", "--stop", "3")
    assert (stopped["text"], stopped["stop_reason"]) == ("12", "3")


def test_the_end_of_the_context_is_told(package: str) -> None:
    options = ["--max-model-len", "64", "--grammar", "regex:[0-9]{300}"]
    result = invoke(package, "ab", *options)
    assert result.exit_code == 0
    assert result.stderr == "note: the context of 64 tokens is full: the answer is cut off\n"
    result = invoke(package, "ab" * 100, *options)
    assert (result.exit_code, result.stderr.startswith("error: the context holds 64 tokens")) == (1, True)


def test_adapters_that_are_loaded_answer(tmp_path: Path) -> None:
    model = read_golden()["llama"].model
    base = str(write_folder(model, tmp_path / "base"))
    for seed, name in enumerate(("one", "two")):
        write_adapter(tmp_path / name, linears(model.shapes), seed=seed)
    modules = [f"--lora-modules={name}={tmp_path / name}" for name in ("one", "two")]

    def said(*options: str) -> str:
        return str(told(base, "ab", "--raw", *GREEDY, *options)["text"])

    both, one = said(*modules), said(modules[0])
    assert len({said(), one, both}) == 3
    assert said(*modules, "--adapter", "one") == one
    assert said(*modules, "--adapter", "one", "--adapter", "two") == both
    result = invoke(base, "ab", *modules, "--adapter", "owl")
    assert (result.exit_code, "owl" in result.stderr, result.stdout) == (1, True, "")


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "Missing argument 'PACKAGE'"),
        (["demo", ""], 2, "the prompt is empty"),
        (["demo"], 2, "the prompt is empty"),
        (["demo", "a", "--temperature", "-1"], 2, "--temperature: temperature must be"),
        (["demo", "a", "--raw", "--system", "x"], 2, "leave one of them out"),
        (["demo", "a", "--no-history"], 2, "add -i"),
        (["demo", "a", "--adapter-root", "."], 2, "name adapters with --lora-modules"),
        (["demo", "-i", "--json"], 2, "--json is of one answer"),
        (["demo", "-i", "--stats"], 2, "--stats is of one answer"),
        (["demo", "-i", "--raw"], 2, "--raw is of one answer"),
        (["demo", "-i", "-"], 2, "- is of one answer"),
        (["/no/where", "a"], 4, "error: there is no file or folder /no/where"),
        ([__file__, "a"], 4, "error: "),
        (["demo", "a", "--adapter", "sql"], 1, "--lora-modules"),
    ],
)
def test_mistakes_are_one_clear_line(
    arguments: list[str], code: int, complaint: str, request: pytest.FixtureRequest
) -> None:
    if code == 1:
        arguments = [request.getfixturevalue("package"), *arguments[1:]]
    result = invoke(*arguments)
    assert (result.exit_code, complaint in result.stderr) == (code, True), result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_input_that_is_no_text_is_refused() -> None:
    result = invoke("demo", typed=b"\xff\xfe")
    assert (result.exit_code, "not UTF-8" in result.stderr) == (2, True)


def test_whoever_has_read_enough_ends_it_quietly(package: str) -> None:
    with subprocess.Popen(
        [*COMMAND, package, "ab", "--grammar", "regex:[0-9]{150}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 0


def test_an_interrupt_ends_it_with_130(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before is on standard output, none of it where JSON was asked for."""

    def interrupted(outputs: object, write: Callable[[str], None]) -> None:
        write("so far")
        raise KeyboardInterrupt

    monkeypatch.setattr("mistralrs_onnx.tools.chatting.one_shot.Answer.take", lambda answer, *rest: interrupted(*rest))
    for options, said in (([], "so far"), (["--json"], "")):
        result = invoke(package, "ab", *options)
        assert (result.exit_code, result.stdout, result.stderr) == (130, said, "error: interrupted\n")


def test_an_interrupt_while_the_prompt_is_read_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(prompt: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("mistralrs_onnx.tools.run.read_prompt", interrupted)
    result = invoke("demo", "-")
    assert (result.exit_code, result.stderr) == (130, "error: interrupted\n")


def test_a_chat_in_a_terminal(package: str, tmp_path: Path) -> None:
    with terminal(*COMMAND, package, "-i", "ab", "--max-tokens", "3", "--grammar", "regex:[0-9]{9}") as shown:
        shown.wait_for("Talking to tiny.", "[3 tokens, ", ">")
        shown.press("hello\r")
        shown.wait_for("[3 tokens, ", ">")
        shown.press("/stats\r")
        shown.wait_for("conversation: 4 messages", "max_tokens: 3", ">")
        shown.press("\x03")
        shown.wait_for("Ctrl-C once more", ">")
        shown.press("\x03")
        assert shown.process.wait(20) == 0
    assert "+hello\n" in (tmp_path / "cache" / "chat_history").read_text()


def test_the_recommendations_of_a_model_can_be_left_aside(package: str, tmp_path: Path) -> None:
    """Which here are a file that cannot be read."""
    broken = Path(shutil.copytree(package, tmp_path / "package"))
    config = broken / "generation_config.json"
    config.write_bytes(b"?" * config.stat().st_size)
    refused = invoke(str(broken), "ab", *GREEDY)
    assert (refused.exit_code, "--generation-config none" in refused.stderr) == (4, True)
    assert invoke(str(broken), "ab", *GREEDY, "--generation-config", "none").exit_code == 0


def test_options_may_come_from_the_environment(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_MAX_TOKENS", "2")
    assert told(package, "ab")["usage"]["completion_tokens"] == 2
    assert told(package, "ab", "--max-tokens", "1")["usage"]["completion_tokens"] == 1
    shown = invoke(package, "ab", "--print-config")
    assert "max-tokens = 2" in shown.stdout
    assert "environment MISTRALRS_MAX_TOKENS" in shown.stdout


def test_engine_options_are_read(package: str) -> None:
    result = invoke(package, "ab", "--max-model-len", "100000")
    assert (result.exit_code, "100000" in result.stderr) == (4, True)


def test_help_fits_on_a_screen() -> None:
    result = CliRunner().invoke(run, ["--help"], terminal_width=100)
    assert result.exit_code == 0
    assert len(result.output.splitlines()) <= 40
