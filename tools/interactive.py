"""A chat in the terminal: the answer streams, Ctrl-C stops it, and the conversation is kept."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import click

from mistralrs_onnx.runtime.adapter_registry import Part
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.answers import Output
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import SamplingParams

COMMANDS = {
    "/help": "list the commands",
    "/exit": "leave; so does the end of the input (Ctrl-D)",
    "/clear": "forget the conversation",
    "/adapter": "NAME ... or NAME:WEIGHT: answer with these adapters; without NAME, with those that are active",
    "/system": "TEXT: say how the model should be, and begin anew; without TEXT, take that back",
}
PARAMS = {"temperature": 0.3, "top_p": 0.95}  # where the model recommends nothing

ReadLine = Callable[[], str]  # raises EOFError at the end of the input
Write = Callable[[str], None]


class Engine(Protocol):
    """Generates tokens."""

    def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, adapter: Adapter | None = None
    ) -> Iterator[Output]: ...


class Adapters(Protocol):
    """What is loaded beside the model."""

    def select(self, parts: Sequence[Part] | None) -> Adapter | None: ...


class Model(Protocol):
    """A model that can hold a conversation."""

    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def adapters(self) -> Adapters | None: ...
    @property
    def mixed_adapters(self) -> Sequence[str]: ...
    @property
    def defaults(self) -> Mapping[str, Any]: ...
    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]: ...


def chat(model: Model) -> None:
    """Talks on standard input and output until the input ends."""
    write = partial(click.echo, nl=False)
    write(f"Talking to {model.name}. /help lists the commands.\n")
    Conversation(model, write).run(terminal_lines() if sys.stdin.isatty() else piped_line)


def piped_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def terminal_lines() -> ReadLine:
    from prompt_toolkit import PromptSession  # slow to import, and of use only here

    session: PromptSession[str] = PromptSession()
    return lambda: session.prompt("> ")


class Conversation:
    """What was said so far, and whom to ask for more."""

    def __init__(self, model: Model, write: Write) -> None:
        self.system = ""
        self.turns: list[dict[str, str]] = []
        self._model = model
        self._params = SamplingParams(**(model.defaults or PARAMS))
        self._adapter = None if model.adapters is None else model.adapters.select(None)
        self._write = write

    def run(self, read: ReadLine) -> None:
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                continue
            if line == "/exit":
                return
            if line.startswith("/"):
                self.command(line)
            elif line:
                self.ask(line)

    def command(self, line: str) -> None:
        name, _, text = line.partition(" ")
        match name:
            case "/help":
                self._write("".join(f"{known:8} {meaning}\n" for known, meaning in COMMANDS.items()))
            case "/adapter":
                self._choose(text.split())
            case "/clear":
                self.turns.clear()
            case "/system":
                self.system = text.strip()
                self.turns.clear()
            case _:
                near = difflib.get_close_matches(name, COMMANDS, 1) or list(COMMANDS)
                self._write(f"There is no {name}. Did you mean {' or '.join(near)}?\n")

    def _choose(self, words: Sequence[str]) -> None:
        if self._model.mixed_adapters:
            mixed = ", ".join(self._model.mixed_adapters)
            self._write(f"error: this model mixes its own adapters ({mixed}) by X-LoRA: there is nothing to choose.\n")
            return
        if self._model.adapters is None:
            self._write("error: no adapters are loaded: start with --lora-modules NAME=PATH.\n")
            return
        try:
            self._adapter = self._model.adapters.select([_part(word) for word in words] or None)
        except RequestError as error:
            self._write(f"error: {error}\n")
        else:
            self._write(f"Answering with {'the model alone' if self._adapter is None else self._adapter.name}.\n")

    def ask(self, question: str) -> None:
        """One turn; a question that cannot be answered is forgotten, one that was interrupted is not."""
        self.turns.append({"role": "user", "content": question})
        system = [{"role": "system", "content": self.system}] if self.system else []
        try:
            answer = self._answer(self._model.encode_chat(system + self.turns))
        except RequestError as error:
            self.turns.pop()
            self._write(f"error: {error}. /clear begins a new conversation.\n")
        else:
            self.turns.append({"role": "assistant", "content": answer})

    def _answer(self, prompt_ids: Sequence[int]) -> str:
        """Writes the answer as it comes, then how fast it came."""
        pieces: list[str] = []
        begun = first = perf_counter()
        num_tokens = 0
        note = ""
        try:
            for output in self._model.engine.generate(prompt_ids, self._params, self._adapter):
                first = first if num_tokens else perf_counter()
                num_tokens += len(output.token_ids)
                pieces.append(output.text)
                self._write(output.text)
        except KeyboardInterrupt:
            note = ", stopped"
        self._write(f"\n[{speed(num_tokens, first - begun, perf_counter() - first)}{note}]\n")
        return "".join(pieces)


def _part(word: str) -> Part:
    """Raises RequestError."""
    name, _, weight = word.partition(":")
    try:
        return Part(name, float(weight or 1))
    except ValueError:
        raise RequestError(f"the weight of adapter {name} must be a number, got {weight!r}") from None


def speed(num_tokens: int, wait: float, seconds: float) -> str:
    """Tokens per second do not count the first, which waits for the prompt to be read."""
    rate = f"{(num_tokens - 1) / seconds:.1f} tokens/s, " if num_tokens > 1 and seconds > 0 else ""
    return f"{num_tokens} tokens, {rate}first after {wait:.2f} s"
