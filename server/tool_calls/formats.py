"""How families of models write calls, and which of them a model follows."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass

from .json_scanner import SPACE
from .parser import KEY_BEGINNINGS, Parser, Steps

LETTERS = string.ascii_letters + string.digits
HARMONY_START = "<|channel|>commentary to=functions."
ID_LETTERS = re.compile("[A-Za-z0-9_-]*")


def beginning(text: str) -> str:
    """A regular expression for the text or, where there is no more, its beginning."""
    pattern = ""
    for letter in reversed(text[1:]):
        pattern = rf"(?:\Z|{re.escape(letter)}{pattern})"
    return re.escape(text[0]) + pattern


JSON_BEGINNING = rf"""\[(?=\s*(?:\Z|\{{))|\{{(?=\s*(?:\Z|"(?:\Z|[{KEY_BEGINNINGS}])))"""


class Hermes(Parser):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3; an array of them: SmolLM2."""

    opening = re.compile(beginning("<tool_call>"))

    def _calls(self) -> Steps[None]:
        if not (yield from self._literal("<tool_call>")):
            return
        yield from self._skip(SPACE)
        is_array = (yield from self._peek()) == "["
        found = yield from (self._array() if is_array else self._object())
        if found:
            yield from self._skip(SPACE)
            if (yield from self._literal("</tool_call>")):
                self._drop()


class PlainJson(Parser):
    """An object, or an array of objects, with `name` and `arguments` or `parameters`, anywhere in the text."""

    opening = re.compile(JSON_BEGINNING)
    needs_arguments = True

    def _calls(self) -> Steps[None]:
        if (yield from self._peek()) == "[":
            yield from self._array()
        else:
            yield from self._objects(";,")


class Llama3(PlainJson):
    """`{"name": ..., "parameters": {...}}`, also behind `<|python_tag|>`, several with `;` between them."""

    opening = re.compile(f"{beginning('<|python_tag|>')}|{JSON_BEGINNING}")

    def _calls(self) -> Steps[None]:
        if (yield from self._peek()) == "<":
            if not (yield from self._literal("<|python_tag|>")):
                return
            yield from self._skip(SPACE)
        yield from super()._calls()


class Mistral(Parser):
    """`[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, and since 2025 `[TOOL_CALLS]name[ARGS]{...}`.

    The model's own id of a call (`[CALL_ID]...` before `[ARGS]`) is left out.
    """

    opening = re.compile(beginning("[TOOL_CALLS]"))

    def _calls(self) -> Steps[None]:
        if not (yield from self._literal("[TOOL_CALLS]")):
            return
        yield from self._skip(SPACE)
        letter = yield from self._peek()
        if letter == "[":
            yield from self._array()
        elif letter == "{":
            yield from self._objects(",")
        else:
            yield from self._named()

    def _named(self) -> Steps[None]:
        name = yield from self._name()
        if name is None:
            return
        while (yield from self._peek()) == "[":
            self._at += 1
            is_id = (yield from self._peek()) == "C"
            if not (yield from self._literal("CALL_ID]" if is_id else "ARGS]")):
                return
            if is_id:
                yield from self._skip(ID_LETTERS)
        yield from self._skip(SPACE)
        if (yield from self._peek()) == "{":
            yield from self._arguments(name)


class HarmonyCalls(Parser):
    """`<|channel|>commentary to=functions.name<|message|>{...}`: gpt-oss, as Harmony leaves it."""

    opening = re.compile(beginning(HARMONY_START))

    def _calls(self) -> Steps[None]:
        if not (yield from self._literal(HARMONY_START)):
            return
        name = yield from self._name()
        if name is None or not (yield from self._literal("<|message|>")):
            return
        yield from self._skip(SPACE)
        if (yield from self._peek()) == "{":
            yield from self._arguments(name)


@dataclass(frozen=True, slots=True)
class Format:
    """`name`, and how calls are read; `make_id` gives a call an id that the templates of the family take."""

    name: str
    parser: type[Parser]
    make_id: Callable[[], str]

    def make_parser(self) -> Parser:
        return self.parser(self.make_id)


def _long_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _short_id() -> str:
    """Mistral's templates refuse ids of another form."""
    return "".join(secrets.choice(LETTERS) for _ in range(9))


HERMES = Format("hermes", Hermes, _long_id)
LLAMA3 = Format("llama3", Llama3, _long_id)
MISTRAL = Format("mistral", Mistral, _short_id)
MISTRAL_NAMED = Format("mistral_named", Mistral, _short_id)
HARMONY = Format("harmony", HarmonyCalls, _long_id)
PLAIN_JSON = Format("json", PlainJson, _long_id)
FORMATS = (HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, HARMONY, PLAIN_JSON)


def detect(template: str | None) -> Format:
    """The format that a chat template shows to its model; plain JSON for one that shows none of ours."""
    template = template or ""
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    if "<|channel|>" in template and "<|message|>" in template:
        return HARMONY
    if "<tool_call>" in template:
        return HERMES
    if "<|python_tag|>" in template or ("<|start_header_id|>" in template and '"parameters": ' in template):
        return LLAMA3
    return PLAIN_JSON
