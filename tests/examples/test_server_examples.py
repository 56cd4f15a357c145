"""The examples of clients run against a server with a tiny model that has adapters, and print what they promise."""

from __future__ import annotations

import io
import re
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from openai import OpenAI
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder
from tokenizers import Tokenizer, decoders

from mistralrs_onnx.adapters import AdapterOptions
from mistralrs_onnx.compiler.compile import compile_folder
from mistralrs_onnx.model import LoadOptions, load
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.server.lifecycle import Server, ServerOptions

GUARD = 60.0
EXAMPLES = Path(__file__).parents[2] / "examples" / "server"
ADAPTERS = ("sql", "poem")
# Tokens are letters without blanks, so roles are letters, and calls those of Mistral, which need none.
CALLS = "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments }}{% endfor %}"
TEMPLATE = f"{{% for m in messages %}}{{{{ m.role[0] }}}}:{{{{ m.content or '' }}}}{CALLS};{{% endfor %}}a:"
SAID = "[ -~]*"
PRINTS = {
    "completion": "0: Once upon a time(?P<first>[ -~]+)\n1: Once upon a time(?!(?P=first)\n)[ -~]+\n",
    "regex": r"(19|20)\d\d-\d\d-\d\d\n",
    "yacc": r"(int|float)[a-z ]+(=[a-z0-9+*() ]*;?)?\n",
    "json_schema": r"[A-Z][a-z]+ is in (Africa|America|Asia|Europe)\n",
    "tools": r"The model calls weather with {'city': '(Oslo'}, which is: snow, -4|Rome'}, which is: sun, 21) degrees\n"
    rf"{SAID}\n",
}

Run = Callable[..., str]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the API of a server."""
    folder, llama, ready = tmp_path_factory.mktemp("served"), read_golden()["llama"].model, threading.Event()
    checkpoint = write_folder(llama, folder / "tiny", {"max_position_embeddings": 512})
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.decoder = decoders.ByteLevel()  # tokens are bytes, as grammars need
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    for seed, name in enumerate(ADAPTERS):
        write_adapter(folder / name, linears(llama.shapes), seed=seed)
    package = compile_folder(checkpoint, folder / "package")
    options = LoadOptions(EngineOptions(max_seqs=4), adapters=AdapterOptions({n: folder / n for n in ADAPTERS}))
    server = Server(lambda: load(package, options), ServerOptions(port=0, drain_timeout=1.0), lambda _: ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(GUARD)
    yield f"{server.url}/v1"
    server.stop()
    thread.join(GUARD)
    assert not thread.is_alive()


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What an example prints."""

    def printed(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", url, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return printed


def say(url: str, *turns: tuple[str, str], max_tokens: int, model: str = "default") -> str:
    """What the model answers to a conversation, without an example."""
    messages: Any = [{"role": role, "content": content} for role, content in turns]
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=GUARD) as client:
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens, temperature=0)
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("name", PRINTS)
def test_prints(name: str, run: Run) -> None:
    assert re.fullmatch(PRINTS[name], run(name))


def test_a_stream_is_the_whole_answer(url: str, run: Run) -> None:
    said = say(url, ("user", "Why is the sky blue?"), max_tokens=64)
    assert said
    text, count = run("streaming").splitlines()
    assert text == said
    assert re.fullmatch(r"\d+ tokens, after 21 of the prompt", count)


def test_a_conversation_is_remembered(url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nAgain\n"))
    turns, printed = [("system", "You are a helpful assistant.")], ""
    for question in ("Hello", "Again"):
        turns.append(("user", question))
        turns.append(("assistant", say(url, *turns, max_tokens=128)))
        printed += f"> {turns[-1][1]}\n"
    assert run("chat") == f"{printed}> \n"


def test_of_what_a_model_thought(run: Run) -> None:
    lines = run("logprobs").splitlines()
    assert 1 <= len(lines) <= 12
    for line in lines:
        first, *others = (float(each) for each in re.findall(r"(\d+\.\d)% ['\"]", line))
        assert len(others) in (2, 3)
        assert first >= max(others)


def test_a_second_turn_finds_the_first(run: Run) -> None:
    counts = re.findall(r"^  (\d+) tokens asked, (\d+) of them known already$", run("prefix_cache"), re.MULTILINE)
    (asked, known), (asked_then, known_then) = ((int(a), int(b)) for a, b in counts)
    assert known == 0
    assert asked <= known_then < asked_then


def test_adapters_are_chosen_by_each_request(url: str, run: Run) -> None:
    said = dict(line.split(": ", 1) for line in run("adapter_chat", *ADAPTERS).splitlines())
    assert list(said) == ["base", *ADAPTERS, "all by halves"]
    assert len(set(said.values())) == 4
    for name in ADAPTERS:
        assert said[name] == say(url, ("user", "Who are you?"), max_tokens=32, model=name)


def test_without_adapters_the_example_says_how_it_is_called(run: Run) -> None:
    with pytest.raises(SystemExit, match=r"python adapter_chat\.py URL NAME"):
        run("adapter_chat")
