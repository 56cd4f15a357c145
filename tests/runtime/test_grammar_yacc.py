"""Yacc grammars: what is read, what it becomes, and what is wrong on which line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from grammar_walks import END, YaccChecker, byte_tokenizer, compiler_of, takes

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.compiler import GrammarCompiler
from mistralrs_onnx.runtime.grammar.spec import make_spec
from mistralrs_onnx.runtime.grammar.yacc_source import YaccError, read_yacc

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = compiler_of(TOKENIZER, END)
    yield made
    made.close()


TAKEN: list[tuple[str, str, list[str], list[str]]] = [
    ("literals of both quotes", """%% a: 'x' "y" | "'" | '"' ;""", ["xy", "'", '"'], ["x", "x y", "''"]),
    ("start", "%start b %% a: 'x' ; b: a a ;", ["xx"], ["x", "xxx"]),
    ("the first rule but SKIP starts", "%% SKIP: ' '; a: 'x' 'y' ; b: 'z' ;", ["xy", "x  y", " xy "], ["z", " "]),
    ("empty alternatives", "%% a: 'x' a | ; b: %empty ;", ["", "x", "xxx"], ["y"]),
    ("an empty one first", "%% a: | 'x' b ; b: %empty | 'y' ;", ["", "x", "xy"], ["y"]),
    ("expressions", """%% a: "/[0-9]+/" "+" a | '/[a-c]/' ;""", ["a", "12+3+b"], ["1", "+a"]),
    ("slashes", """%% a: "/\\/[a-z]+//" | '/' | "//" ;""", ["/ab/", "/", "//"], ["ab", "///"]),
    ("tokens are their names", "%token IF 'x' THEN %% a: IF a THEN | 'y' ;", ["y", "IFyTHEN"], ["IFy", "ify"]),
    ("precedence changes no language", "%left '+' %right '^' %% e: e '+' e | e '^' e | 'n' %prec '+' ;",
     ["n", "n+n^n"], ["n+"]),
    ("actions, types and programs",
     "%{ #include %} %union { int x; } %type <x> a %% a: 'x' { $$ = f({1}); } | 'y' ; %% int main() { % }",
     ["x", "y"], ["z"]),
    ("comments", "/* * one */ // two\n%% // three\na /* four */ : 'x' // five\n;", ["x"], ["xx"]),
    ("rules in parts", "%% a: 'x' ; a: 'y' ;", ["x", "y"], ["xy"]),
    ("names with dots and of capitals", "%% a.b: A_1 ; A_1: c ; c: 'x' ;", ["x"], ["a"]),
    ("words are no names", '%% s: "if" N ":" | N "=" N ; N: "/[a-z]+/" ; SKIP: "/ +/" ;',
     ["if a:", "a = b", "iff=x"], ["if = a", "a = if"]),
    ("SKIP may match nothing", """%% a: 'x' 'x' ; SKIP: "/ */" | "/#[^#]*#/" ;""",
     ["xx", "x x", "x # # x #c#"], ["x#x"]),
    ("left recursion", "%% l: l ',' 'x' | 'x' ;", ["x", "x,x,x"], ["x,", ""]),
    ("ambiguity", "%% s: s s | 'x' ;", ["x", "xxxx"], ["", "y"]),
    ("reluctant repetition", """%% a: "/[a-z]*?/" '.' ;""", [".", "ab."], ["ab"]),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "good", "bad"), [case[1:] for case in TAKEN], ids=[case[0] for case in TAKEN])
def test_a_grammar_takes_its_language(compiler: GrammarCompiler, grammar: str, good: list[str], bad: list[str]) -> None:
    checker = YaccChecker(grammar)
    for text, is_good in [*((text, True) for text in good), *((text, False) for text in bad)]:
        assert checker.accepts(text) == is_good, f"the checker on {text!r}"
        assert takes(compiler, TOKENIZER, make_spec("yacc", grammar), text) == is_good, text


WRONG = [
    ("a: 'x';", "line 1: expected a declaration such as %start"),
    ("%token A", "line 1: the grammar needs %%"),
    ("%start a\n%start b\n%%\na: 'x';", "line 2: %start was already 'a'"),
    ("%start 'a'\n%%\na: 'x';", "line 1: %start needs the name of a rule"),
    ("%frobnicate\n%%\na: 'x';", "line 1: the declaration '%frobnicate' is not known"),
    ("%start c\n%%\na: 'x';", "the start rule 'c' does not exist"),
    ("%%\n", "the start rule '' does not exist"),
    ("%%\na 'x';", "line 2: expected ':' after 'a'"),
    ("%%\n'a': 'x';", "line 2: expected the name of a rule"),
    ("%%\na: 'x'\n\n", "line 2: the rule 'a' has no ';'"),
    ("%%\na: 'x' :\n b: 'y';", "line 2: ':' cannot stand in a rule"),
    ("%%\n\na: b\n | c;\nb: 'x';", "line 4: 'c' is neither a rule nor declared"),
    ("%%\na: 'x;\n", "line 2: \"'x;"),
    ("%%\na: ''\n;", "line 2"),
    ("%%\na: { {} \n;", "line 2: '{' is never closed"),
    ("/* *", "line 1: '/* *' never ends"),
    ("%%\na: x + 'y';", "line 2: \"+ 'y';\" is not Yacc"),
    ("%%\na: 'x';\nSKIP: ' ' ' ' ;", "line 3: each alternative of SKIP must be one quoted terminal"),
]


@pytest.mark.parametrize(("grammar", "words"), WRONG)
def test_what_is_wrong_is_said_with_its_line(compiler: GrammarCompiler, grammar: str, words: str) -> None:
    with pytest.raises(RequestError) as error:
        compiler.compile(make_spec("yacc", grammar))
    assert words in str(error.value)
    assert (error.value.status, error.value.code) == (400, "invalid_grammar")


def test_a_wrong_expression_is_a_400(compiler: GrammarCompiler) -> None:
    with pytest.raises(RequestError, match="unclosed"):
        compiler.compile(make_spec("yacc", '%%\na: "/[a/";'))


def test_sizes_are_bounded() -> None:
    with pytest.raises(YaccError, match="at most 2000 rules"):
        read_yacc("%%\n" + "".join(f"a{i}: 'x';\n" for i in range(3000)))
    with pytest.raises(YaccError, match="at most 50000 symbols"):
        read_yacc("%% a: " + "a " * 60_000 + ";")
