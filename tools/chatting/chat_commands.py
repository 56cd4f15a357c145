"""What can be typed in a chat beside questions: lines that begin with a slash."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import SamplingParams

from .chat_files import Saved, load, save
from .conversation import Conversation

EXIT = "/exit"
DEFAULT = "default"
SAVED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed")
SHOWN = ("temperature", "top_k", "top_p", "min_p", "max_tokens", "seed")


class Command(NamedTuple):
    """`run` gets what stands behind the name and raises RequestError."""

    argument: str
    meaning: str
    run: Callable[[Conversation, str], None]


def perform(conversation: Conversation, line: str) -> None:
    """Does what a line that begins with a slash says, or tells what is wrong with it."""
    name, _, text = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        conversation.screen.error(f"there is no {name}. {hint}/help lists the commands.")
        return
    try:
        command.run(conversation, text.strip())
    except RequestError as error:
        conversation.screen.error(f"{error}")


def _help(conversation: Conversation, text: str) -> None:
    heads = {f"{name} {command.argument}".strip(): command.meaning for name, command in COMMANDS.items()}
    width = max(map(len, heads))
    lines = [f"{head:{width}}  {meaning}\n" for head, meaning in heads.items()]
    conversation.screen.write("".join(lines) + HELP)


def _exit(conversation: Conversation, text: str) -> None:
    """Whoever reads the lines leaves before this."""


def _clear(conversation: Conversation, text: str) -> None:
    conversation.begin()
    conversation.screen.note("The conversation is forgotten.")


def _system(conversation: Conversation, text: str) -> None:
    had = " The conversation begins anew." if conversation.turns else ""
    conversation.begin(system=text)
    conversation.screen.note(f"{'The system text is set.' if text else 'There is no system text.'}{had}")


def _adapter(conversation: Conversation, text: str) -> None:
    conversation.choose(text.split())
    conversation.screen.note(f"Answering with {conversation.adapter_name}.")


def _regenerate(conversation: Conversation, text: str) -> None:
    conversation.regenerate()


def _setting(name: str, kind: type[int | float]) -> Callable[[Conversation, str], None]:
    """Sets a field of the sampling parameters; without a value, tells it."""

    def run(conversation: Conversation, text: str) -> None:
        if text:
            value = _field(conversation.defaults, name) if text == DEFAULT else _number(name, kind, text)
            conversation.params = _changed(conversation.params, {name: value})
        conversation.screen.note(_shown(conversation.params, name))

    return run


def _number(name: str, kind: type[int | float], text: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        what = "an integer" if kind is int else "a number"
        raise RequestError(f"{name} must be {what} or {DEFAULT!r}, got {text!r:.64}") from None


def _changed(params: SamplingParams, values: dict[str, Any]) -> SamplingParams:
    """Raises RequestError."""
    return replace(params, **values)


def _field(params: SamplingParams, name: str) -> Any:
    return getattr(params, name)


def _shown(params: SamplingParams, name: str) -> str:
    value = _field(params, name)
    silent = {"max_tokens": "as many as fit", "seed": "another each time"}
    return f"{name}: {silent[name] if value is None else value}"


def _stats(conversation: Conversation, text: str) -> None:
    model, answer, num_context = conversation.model, conversation.answer, conversation.num_context
    lines = [f"{model.name}, answering with {conversation.adapter_name}" if model.adapters else model.name]
    lines.append(f"conversation: {len(conversation.messages)} messages{_fullness(num_context, model.context_length)}")
    if answer is not None:
        usage = answer.last.usage
        lines.append(
            f"last answer: {answer.speed}; {usage.cached_tokens} of {usage.prompt_tokens} prompt tokens reused"
        )
    answers = f"{conversation.num_answers} answer{'s' if conversation.num_answers != 1 else ''}"
    lines.append(f"since the start: {answers}, {conversation.num_tokens} tokens")
    lines.append(", ".join(_shown(conversation.params, name) for name in SHOWN))
    for line in lines:
        conversation.screen.note(line)


def _fullness(num_context: int | None, length: int) -> str:
    if num_context is None:
        return f", the context holds {length} tokens"
    return f", {num_context} of {length} tokens ({num_context / length:.0%} of the context)"


def _path(text: str) -> Path:
    if not text:
        raise RequestError("which file? Like: /save chat.json")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise RequestError(f"{text}: {error}") from error


def _save(conversation: Conversation, text: str, *, overwrite: bool = False) -> None:
    path = _path(text)
    settings = {name: _field(conversation.params, name) for name in SAVED}
    saved = Saved(conversation.model.name, conversation.messages, settings, conversation.adapters)
    save(path, saved, overwrite=overwrite)
    conversation.screen.note(f"{len(saved.messages)} messages are in {path}.")


def _save_over(conversation: Conversation, text: str) -> None:
    _save(conversation, text, overwrite=True)


def _load(conversation: Conversation, text: str) -> None:
    path = _path(text)
    saved = load(path)
    if unknown := sorted(saved.settings.keys() - set(SAVED)):
        raise RequestError(f"{path} has a setting {unknown[0]!r:.64}; known are {', '.join(SAVED)}")
    params = _changed(conversation.params, dict(saved.settings))
    conversation.choose(saved.adapters)
    conversation.params = params
    conversation.begin(saved.system, saved.turns)
    other = "" if saved.model == conversation.model.name else f" It was held with {saved.model}."
    conversation.screen.note(f"{len(saved.messages)} messages are back.{other}")
    for message in saved.messages[-2:]:
        conversation.screen.answer(f"{'> ' if message['role'] == 'user' else ''}{message['content']}\n")


COMMANDS = {
    "/help": Command("", "list the commands", _help),
    EXIT: Command("", "leave; so do Ctrl-D, and Ctrl-C twice", _exit),
    "/clear": Command("", "forget the conversation, but for the system text", _clear),
    "/system": Command("TEXT", "how the model should be; begins anew, no TEXT takes it back", _system),
    "/adapter": Command("NAME ...", "answer with these adapters, or NAME:0.5; none: as at first", _adapter),
    "/temperature": Command("X", "0: always the likeliest; higher: more varied", _setting("temperature", float)),
    "/topk": Command("N", "of the N likeliest tokens; 0: of all", _setting("top_k", int)),
    "/topp": Command("X", "of the likeliest that make up X; 1: of all", _setting("top_p", float)),
    "/minp": Command("X", "none below X times the likeliest; 0: any", _setting("min_p", float)),
    "/maxtokens": Command("N", "where answers are cut off", _setting("max_tokens", int)),
    "/seed": Command("N", "the same answers every time", _setting("seed", int)),
    "/regen": Command("", "the last answer anew", _regenerate),
    "/stats": Command("", "how full the context is, how fast, which settings", _stats),
    "/save": Command("FILE", "keep the conversation and its settings", _save),
    "/save!": Command("FILE", "the same, over a file that exists", _save_over),
    "/load": Command("FILE", "go on with what /save kept", _load),
}
HELP = f"""Settings are told without a value, {DEFAULT!r} sets them back.
A line that ends in \\ goes on in the next; so does what stands between two \"\"\".
A question that begins with / needs a space before it.
"""
