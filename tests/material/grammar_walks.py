"""Random outputs of grammars, tokenizers to make them with, and a second opinion on Yacc grammars."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mistralrs_onnx.runtime.grammar.compiler import Grammar, GrammarCompiler
from mistralrs_onnx.runtime.grammar.matcher import Mask, Matcher, allows
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec
from mistralrs_onnx.runtime.grammar.yacc import SKIP, is_regex
from mistralrs_onnx.runtime.grammar.yacc_source import Symbol, read_yacc

END = "<|end|>"
CLOSING = ('"}])', ";({:", "0a", "/*")  # what to look for, in this order
TEXTS = ('{"', '":', "ab", "00", " int", "th", "the", ", ", '",', "true", "((", "==")


def byte_tokenizer() -> Tokenizer:
    """Every byte, a few pairs and words, then two special tokens, of which the first ends a text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    merges = []
    for text in TEXTS:
        whole = text.replace(" ", "Ġ")
        for end in range(2, len(whole) + 1):
            if whole[:end] not in vocabulary:
                vocabulary[whole[:end]] = len(vocabulary)
                merges.append((whole[: end - 1], whole[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True), AddedToken("<|start|>", special=True)])
    return tokenizer


def compiler_of(tokenizer: Tokenizer, *ends: str, padding: int = 0) -> GrammarCompiler:
    """`padding`: logits without a token, as models have them."""
    ids = [tokenizer.token_to_id(end) for end in ends]
    return GrammarCompiler(tokenizer, tokenizer.get_vocab_size() + padding, ids)


def allowed(mask: Mask) -> np.ndarray:
    return np.unpackbits(mask.view(np.uint8), bitorder="little").nonzero()[0]


class Walk:
    """Tokens chosen among the allowed ones with equal chances, until an end or `max_tokens`.

    After `patience` tokens an end is taken where there is one, and mostly what closes something: what is drawn with
    equal chances goes on for ever.
    """

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer, seed: int, *, max_tokens: int = 300, patience: int = 12):
        self.matcher: Matcher = grammar.matcher()
        self.token_ids: list[int] = []
        self._ends = grammar.eos_token_ids
        self._closing = [[tokenizer.token_to_id(mark) for mark in marks] for marks in CLOSING]
        self._rng = np.random.default_rng(seed)
        while not (self.matcher.is_finished or self.matcher.has_ended) and len(self.token_ids) < max_tokens:
            mask = self.matcher.mask()
            assert any(allows(mask, i) for i in self._ends) == self.matcher.can_end
            token_id = self._choice(mask, is_patient=len(self.token_ids) < patience)
            self.matcher.accept([token_id])
            self.token_ids.append(token_id)
        self.is_whole = self.matcher.can_end or self.matcher.has_ended
        special = special_ids(tokenizer)
        self.num_special = sum(i in special for i in self.token_ids[: len(self.token_ids) - self.matcher.has_ended])
        kept = self.token_ids[: len(self.token_ids) - self.matcher.has_ended]
        self.text = tokenizer.decode(kept, skip_special_tokens=False)

    def _choice(self, mask: Mask, *, is_patient: bool) -> int:
        for tier in [] if is_patient else [self._ends, *self._closing]:
            if (some := [i for i in tier if allows(mask, i)]) and self._rng.random() < 0.9:
                return int(self._rng.choice(some))
        choices = allowed(mask)
        assert choices.size, "a mask must allow something"
        return int(choices[self._rng.integers(choices.size)])


def special_ids(tokenizer: Tokenizer) -> set[int]:
    return {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def takes(compiler: GrammarCompiler, tokenizer: Tokenizer, spec: GrammarSpec, text: str) -> bool:
    """Whether a grammar takes a text, in the tokens that the masks want."""
    matcher = compiler.compile(spec).matcher()
    data, place = text.encode(), 0
    names = {i: compiler.prepare().decode_bytes([i]) for i in range(tokenizer.get_vocab_size())}
    by_bytes = {piece: i for i, piece in names.items() if piece and i not in special_ids(tokenizer)}
    while place < len(data):
        mask = matcher.mask()
        lengths = range(min(16, len(data) - place), 0, -1)
        pieces = [p for n in lengths if allows_piece(mask, by_bytes.get(p := data[place : place + n]))]
        if not pieces:
            return False
        matcher.accept([by_bytes[pieces[0]]])
        place += len(pieces[0])
    return matcher.can_end


def allows_piece(mask: Mask, token_id: int | None) -> bool:
    return token_id is not None and allows(mask, token_id)


class YaccChecker:
    """Whether a text belongs to a Yacc grammar: sets of ends for every rule and place, by iteration to a fixed point.

    Written from the grammar's definition, without Lark or llguidance: terminals where they may stand, the longest or
    any shorter match of Python's `re`, SKIP around them.
    """

    def __init__(self, grammar: str) -> None:
        self._grammar = read_yacc(grammar)
        self._skips = [re.compile(self._pattern(a[0])) for a in self._grammar.rules.get(SKIP, ())]
        rules = [rule for name, rule in self._grammar.rules.items() if name != SKIP]
        tokens = [s for rule in rules for a in rule for s in a if s.is_quoted or s.text not in self._grammar.rules]
        self._words = {symbol.text for symbol in tokens if symbol.text.isidentifier()}

    def accepts(self, text: str) -> bool:
        self._text = text
        self._terminal_ends = lru_cache(maxsize=None)(self._find_ends)
        table: dict[tuple[str, int], frozenset[int]] = {}
        wanted = [(self._grammar.start, start) for start in self._after_skip(0)]
        while True:
            before = dict(table)
            done: set[tuple[str, int]] = set()
            stack = list(wanted)
            while stack:
                key = stack.pop()
                if key not in done:
                    done.add(key)
                    table[key] = self._rule_ends(key, table, stack)
            if table == before:
                return any(len(text) in table[key] for key in wanted)

    def _rule_ends(self, key: tuple[str, int], table: dict, stack: list) -> frozenset[int]:
        name, place = key
        ends: set[int] = set(table.get(key, ()))
        for alternative in self._grammar.rules[name]:
            places = {place}
            for symbol in alternative:
                places = {end for start in places for end in self._symbol_ends(symbol, start, table, stack)}
            ends |= places
        return frozenset(ends)

    def _symbol_ends(self, symbol: Symbol, place: int, table: dict, stack: list) -> frozenset[int]:
        if symbol.is_quoted or symbol.text not in self._grammar.rules:
            return self._terminal_ends(symbol, place)
        stack.append((symbol.text, place))
        return table.get((symbol.text, place), frozenset())

    def _find_ends(self, symbol: Symbol, place: int) -> frozenset[int]:
        pattern, text = re.compile(self._pattern(symbol)), self._text
        ends = {end for end in range(place, len(text) + 1) if pattern.fullmatch(text, place, end)}
        if is_regex(symbol):
            ends = {end for end in ends if text[place:end] not in self._words}
        return frozenset(after for end in ends for after in self._after_skip(end))

    def _after_skip(self, place: int) -> set[int]:
        """`place`, and where what may be skipped from it ends; of each expression the longest match."""
        found, new = {place}, [place]
        while new:
            start = new.pop()
            ends = {match.end() for skip in self._skips if (match := skip.match(self._text, start))} - found
            found |= ends
            new += ends
        return found

    def _pattern(self, symbol: Symbol) -> str:
        return symbol.text[1:-1] if is_regex(symbol) else re.escape(symbol.text)
