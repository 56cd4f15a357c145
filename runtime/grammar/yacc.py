"""Yacc grammars as Lark: the same language, but terminals are looked for by what may follow instead of a lexer's rules.

`"+"` and `'+'` are literals, `"/[0-9]+/"` is a regular expression, a %token without a rule is its own name. Rules of
capital letters whose alternatives are single terminals become one terminal each; the alternatives of SKIP may stand
between terminals, before the first and after the last. As lexers of Yacc grammars put literals before expressions, no
expression but SKIP's matches a literal that is a word. Unlike theirs, a terminal may directly follow a word where the
grammar allows no longer word: after `struct {`, `intx` can be `int x`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from . import lark
from .yacc_source import Symbol, YaccError, YaccGrammar, read_yacc

SKIP = "SKIP"
WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def yacc_to_lark(text: str) -> str:
    """Raises YaccError, which says the line and what is wrong there."""
    return "\n".join(_Lark(read_yacc(text)).lines()) + "\n"


def is_regex(symbol: Symbol) -> bool:
    return symbol.is_quoted and len(symbol.text) > 2 and symbol.text[0] == symbol.text[-1] == "/"


class _Lark:
    """Names in Lark say by their case what they are, so all are made anew; their end tells which rule it was."""

    def __init__(self, grammar: YaccGrammar) -> None:
        self._grammar = grammar
        self._skips = _skips(grammar)
        self._names = {
            name: f"{'T' if self._is_terminal(name) else 'r'}{number}_{_suffix(name, self._is_terminal(name))}"
            for number, name in enumerate(grammar.rules)
        }
        self._names |= {SKIP: SKIP}
        self._patterns: dict[str, str] = {}  # of regular expressions, and the terminals that they become
        self._words = sorted({symbol.text for symbol in self._terminals() if _is_word(symbol)})

    def lines(self) -> Iterator[str]:
        rules = [
            f"{self._names[name]}: {' | '.join(self._alternatives(alternatives))}"
            for name, alternatives in self._grammar.rules.items()
            if name != SKIP
        ]
        yield from self._start()
        if self._words:
            yield f"WORDS: {' | '.join(map(lark.literal, self._words))}"
        but_words = " & ~WORDS" if self._words else ""
        yield from (f"{name}: {lark.regex(pattern)}{but_words}" for pattern, name in self._patterns.items())
        yield from rules

    def _start(self) -> Iterator[str]:
        start = self._names[self._grammar.start]
        if not self._skips:
            yield f"start: {start}"
            return
        yield f"start: SKIP? {start} SKIP?"
        yield f"SKIP: {' | '.join(f'({lark.regex(pattern)} & /(?s:.+)/)' for pattern in self._skips)}"
        yield "%ignore SKIP"

    def _is_terminal(self, name: str) -> bool:
        alternatives = self._grammar.rules[name]
        is_lexical = all(len(a) == 1 and self._is_token(a[0]) for a in alternatives)
        return name.upper() == name and is_lexical

    def _is_token(self, symbol: Symbol) -> bool:
        return symbol.is_quoted or symbol.text not in self._grammar.rules

    def _terminals(self) -> Iterator[Symbol]:
        rules = (alternatives for name, alternatives in self._grammar.rules.items() if name != SKIP)
        return (s for alternatives in rules for a in alternatives for s in a if self._is_token(s))

    def _alternatives(self, alternatives: Iterable[tuple[Symbol, ...]]) -> Iterator[str]:
        for alternative in dict.fromkeys(tuple(map(self._symbol, symbols)) for symbols in alternatives):
            yield " ".join(alternative) or '""'

    def _symbol(self, symbol: Symbol) -> str:
        if not self._is_token(symbol):
            return self._names[symbol.text]
        if not is_regex(symbol):
            return lark.literal(symbol.text)
        return self._patterns.setdefault(symbol.text[1:-1], f"X{len(self._patterns)}")


def _is_word(symbol: Symbol) -> bool:
    return not is_regex(symbol) and WORD.fullmatch(symbol.text) is not None


def _suffix(name: str, is_terminal: bool) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain.upper() if is_terminal else plain.lower()


def _skips(grammar: YaccGrammar) -> list[str]:
    """Patterns of the alternatives of SKIP, which must be single terminals."""
    found = []
    for alternative in grammar.rules.get(SKIP, ()):
        if len(alternative) != 1 or not alternative[0].is_quoted:
            raise YaccError(f"line {grammar.lines[SKIP]}: each alternative of SKIP must be one quoted terminal")
        symbol = alternative[0]
        found.append(symbol.text[1:-1] if is_regex(symbol) else lark.quoted_regex(symbol.text))
    return found
