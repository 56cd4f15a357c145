"""Reads Yacc grammars as cfgrammar's YaccKind::Original does; knows nothing of what becomes of them.

What only steers an LR parser changes no language and is skipped: %left, %right, %nonassoc, %precedence, %prec,
%expect, %type, %union, %epp, %avoid_insert, actions in braces, the prologue in %{ %} and what follows the second %%.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

MAX_RULES = 2000
MAX_SYMBOLS = 50_000  # in all alternatives together

# No escapes: a quoted terminal ends at the next quote of its kind, and holds at least one character.
SCANNER = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|/\*(?:[^*]|\*(?!/))*\*/)
    |(?P<quoted>"[^\n][^"\n]*"|'[^\n][^'\n]*')
    |(?P<prologue>%\{(?:[^%]|%(?!\}))*%\})
    |(?P<section>%%)
    |(?P<directive>%[a-zA-Z_-]+)
    |(?P<name>[a-zA-Z_.][a-zA-Z0-9_.]*)
    |(?P<number>[0-9]+)
    |(?P<tag><[^>\n]*>)
    |(?P<mark>[:|;])
    """,
    re.VERBOSE,
)
BRACES = re.compile(r"[{}]")
DECLARING = frozenset(["%token", "%left", "%right", "%nonassoc", "%precedence"])
SKIPPED = frozenset(
    ["%expect", "%expect-rr", "%expect-unused", "%type", "%union", "%epp", "%avoid_insert", "%actiontype"]
)


class YaccError(ValueError):
    """Says the line."""


class Symbol(NamedTuple):
    """A name or a quoted terminal without its quotes."""

    text: str
    is_quoted: bool
    line: int


class Piece(NamedTuple):
    """A piece of the source: `kind` is a group of SCANNER, or `end` with no text."""

    kind: str
    text: str
    line: int


@dataclass(slots=True)
class YaccGrammar:
    """`rules` maps names to alternatives, `lines` to where they begin; `start` is declared or the first but SKIP."""

    start: str = ""
    tokens: set[str] = field(default_factory=set)
    rules: dict[str, list[tuple[Symbol, ...]]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def read_yacc(text: str) -> YaccGrammar:
    """Raises YaccError."""
    return _Reader(text).read()


def _fail(line: int, message: str) -> NoReturn:
    raise YaccError(f"line {line}: {message}")


def _pieces(text: str) -> Iterator[Piece]:
    """Up to the second %%, which programs follow."""
    place, line, num_sections = 0, 1, 0
    while place < len(text) and num_sections < 2:
        if text[place] == "{":
            end = _end_of_braces(text, place, line)
            line += text.count("\n", place, end)
            place = end
            continue
        match = SCANNER.match(text, place)
        if match is None:
            unfinished = text.startswith(("/*", "%{", '"', "'"), place)
            _fail(line, f"{text[place : place + 20]!r} {'never ends' if unfinished else 'is not Yacc'}")
        if match.lastgroup not in ("blank", "prologue", "tag"):
            yield Piece(str(match.lastgroup), match.group(), line)
        num_sections += match.lastgroup == "section"
        line += match.group().count("\n")
        place = match.end()
    yield Piece("end", "", line)


def _end_of_braces(text: str, start: int, line: int) -> int:
    depth = 0
    for match in BRACES.finditer(text, start):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return match.end()
    _fail(line, "'{' is never closed")


class _Reader:
    """One pass over the pieces, with one of them in sight."""

    def __init__(self, text: str) -> None:
        self._pieces = _pieces(text)
        self._next = next(self._pieces)
        self._num_symbols = 0
        self._grammar = YaccGrammar()

    def read(self) -> YaccGrammar:
        while self._next.kind != "section":
            self._read_declaration()
        self._take()
        while self._next.kind not in ("section", "end"):
            self._read_rule()
        return self._checked()

    def _take(self) -> Piece:
        taken = self._next
        self._next = next(self._pieces, taken)
        return taken

    def _read_declaration(self) -> None:
        piece = self._take()
        if piece.kind == "end":
            _fail(piece.line, "the grammar needs %% between its declarations and its rules")
        if piece.kind != "directive":
            _fail(piece.line, f"expected a declaration such as %start, or %% before the rules, got {piece.text!r:.40}")
        if piece.text == "%start":
            self._read_start(piece)
        elif piece.text in DECLARING:
            self._grammar.tokens |= {symbol.text.strip("\"'") for symbol in self._words()}
        elif piece.text in SKIPPED:
            self._words()
        else:
            _fail(piece.line, f"the declaration {piece.text!r:.40} is not known")

    def _read_start(self, piece: Piece) -> None:
        name = self._take()
        if name.kind != "name":
            _fail(piece.line, f"%start needs the name of a rule, got {name.text!r:.40}")
        if self._grammar.start:
            _fail(piece.line, f"%start was already {self._grammar.start!r:.40}")
        self._grammar.start = name.text

    def _words(self) -> list[Piece]:
        words = []
        while self._next.kind in ("name", "quoted", "number"):
            words.append(self._take())
        return [word for word in words if word.kind != "number"]

    def _read_rule(self) -> None:
        name = self._take()
        if name.kind != "name":
            _fail(name.line, f"expected the name of a rule, got {name.text!r:.40}")
        if self._next.text != ":":
            _fail(self._next.line, f"expected ':' after {name.text!r:.40}, got {self._next.text!r:.40}")
        self._grammar.lines.setdefault(name.text, name.line)
        alternatives = self._grammar.rules.setdefault(name.text, [])
        if len(self._grammar.rules) > MAX_RULES:
            _fail(name.line, f"a grammar may have at most {MAX_RULES} rules")
        while self._next.text != ";":
            self._take()
            alternatives.append(self._alternative(name))
        self._take()

    def _alternative(self, rule: Piece) -> tuple[Symbol, ...]:
        symbols: list[Symbol] = []
        while self._next.text not in ("|", ";") or self._next.kind == "quoted":
            piece = self._take()
            if piece.kind in ("name", "quoted"):
                is_quoted = piece.kind == "quoted"
                symbols.append(Symbol(piece.text[1:-1] if is_quoted else piece.text, is_quoted, piece.line))
            elif piece.text == "%prec" and self._next.kind in ("name", "quoted"):
                self._take()
            elif piece.kind == "end":
                _fail(rule.line, f"the rule {rule.text!r:.40} has no ';' at its end")
            elif piece.text != "%empty":
                _fail(piece.line, f"{piece.text!r:.40} cannot stand in a rule")
        self._num_symbols += len(symbols)
        if self._num_symbols > MAX_SYMBOLS:
            _fail(rule.line, f"a grammar may have at most {MAX_SYMBOLS} symbols in its rules")
        return tuple(symbols)

    def _checked(self) -> YaccGrammar:
        grammar = self._grammar
        grammar.start = grammar.start or next((name for name in grammar.rules if name != "SKIP"), "")
        if grammar.start not in grammar.rules:
            _fail(1, f"the start rule {grammar.start!r:.40} does not exist")
        known = grammar.rules.keys() | grammar.tokens
        for alternative in (alternative for rule in grammar.rules.values() for alternative in rule):
            for symbol in alternative:
                if not symbol.is_quoted and symbol.text not in known:
                    _fail(symbol.line, f"{symbol.text!r:.40} is neither a rule nor declared with %token")
        return grammar
