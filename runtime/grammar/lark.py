"""Pieces of Lark as llguidance reads it: literals, and what a request's own Lark may not use."""

from __future__ import annotations

import re

import orjson
from llguidance import regex_to_lark

META = re.compile(r"[^\w<>]", re.ASCII)
# Comments, strings and regular expressions of a Lark grammar: what is left without them are names and operators.
TEXTS = re.compile(r"//[^\n]*|#[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|/(?:[^/\\\n]|\\.)+/[imslux]*")
BUDGETS = re.compile(r"\[[^\]\n]*\b(stop|max_tokens|temperature)\b[^\]\n]*\]")


def literal(text: str) -> str:
    """A Lark string, whose escapes are JSON's."""
    return orjson.dumps(text).decode()


def regex(pattern: str) -> str:
    """A Lark regular expression in Rust's syntax, but \\d, \\w and \\s mean ASCII, as mistral.rs has them."""
    return f"/{regex_to_lark(pattern, 'dws')}/"


def quoted_regex(text: str) -> str:
    """A regular expression, in Rust's syntax, that matches `text` alone."""
    return META.sub(lambda match: match.group() if ord(match.group()) > 127 else rf"\x{ord(match.group()):02x}", text)


def refused_part(text: str) -> str | None:
    """What a request's Lark must not have, as words for its sender.

    References to tokens by name or number, with which special tokens could be produced, and attributes that end a
    terminal by count or hide its end: with them nothing can be taken back, which speculation needs.
    """
    rest = TEXTS.sub(" ", text)
    if "<" in rest:
        return "special tokens (<...>) cannot be part of a grammar"
    if found := BUDGETS.search(rest):
        return f"the attribute {found.group(1)} is not supported: use lazy or suffix"
    return None
