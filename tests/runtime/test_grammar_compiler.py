"""Grammars are compiled once, within limits, and a bad one is a 400 that nobody else notices."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from grammar_walks import END, allowed, byte_tokenizer, compiler_of, special_ids, takes
from tokenizers import Tokenizer, models

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar import compiler as module
from mistralrs_onnx.runtime.grammar.compiler import Grammar, GrammarCompiler
from mistralrs_onnx.runtime.grammar.limits import GrammarLimits
from mistralrs_onnx.runtime.grammar.source import to_llguidance
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec, make_spec
from mistralrs_onnx.runtime.package import Package

TOKENIZER = byte_tokenizer()
MIB = 1024


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = compiler_of(TOKENIZER, END)
    yield made
    made.close()


def limited(**limits: Any) -> GrammarCompiler:
    ends = [TOKENIZER.token_to_id(END)]
    return GrammarCompiler(TOKENIZER, TOKENIZER.get_vocab_size(), ends, GrammarLimits(**limits))


def test_requests_of_one_grammar_share_what_was_compiled(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(GrammarSpec("regex", "share[ab]", "grammar"))
    assert compiler.compile(GrammarSpec("regex", "share[ab]", "guided_regex")) is grammar
    first, second = grammar.matcher(), grammar.matcher()
    first.accept(TOKENIZER.encode("share").ids)
    assert (first.num_tokens, second.num_tokens) == (5, 0)


def test_the_cache_is_bounded_by_count_and_by_bytes() -> None:
    few = limited(cached_grammars=2)
    first, *_ = [few.compile(GrammarSpec("regex", pattern)) for pattern in "abc"]
    assert few.num_cached == 2
    assert few.compile(GrammarSpec("regex", "a")) is not first
    small = limited(cached_bytes=3 * module.BYTES_PER_GRAMMAR)
    for pattern in "abcdef":
        small.compile(GrammarSpec("regex", pattern))
    assert small.num_cached == 2


def test_grammars_asked_for_at_the_same_time_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, gate, one = [], threading.Event(), limited()

    class Slow(Grammar):
        def __init__(self, *args: Any) -> None:
            made.append(args)
            assert gate.wait(60)
            super().__init__(*args)

    monkeypatch.setattr(module, "Grammar", Slow)
    with ThreadPoolExecutor(8) as callers:
        waiting = [callers.submit(one.compile, GrammarSpec("regex", "a+")) for _ in range(8)]
        while not made:
            time.sleep(0.001)
        gate.set()
        assert len({id(future.result(60)) for future in waiting}) == 1
    assert len(made) == 1


def test_a_grammar_that_takes_too_long_is_refused_and_others_go_on() -> None:
    one = limited(trial_seconds=0.3, trial_bytes=2**33)
    for _ in range(2):
        with pytest.raises(RequestError, match=r"takes more than 0\.3 s") as error:
            one.compile(GrammarSpec("regex", "a?" * 60_000))
        assert (error.value.status, error.value.code) == (400, "invalid_grammar")
        one.compile(GrammarSpec("regex", "a?" * 10))
    one.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")
def test_a_grammar_that_takes_too_much_memory_is_refused() -> None:
    one = limited(trial_seconds=60, trial_bytes=100 * 2**20)
    with pytest.raises(RequestError, match="more than 100 MiB of memory"):
        one.compile(GrammarSpec("regex", "a?" * 16_000))
    one.close()


def test_more_grammars_than_may_wait_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, one = threading.Event(), limited(compile_seconds=0.05, max_waiting=1)
    monkeypatch.setattr(module, "to_llguidance", lambda spec: gate.wait(60) and fast(spec))
    fast = to_llguidance
    for pattern in ("a", "b"):  # the first waits too long, the second not at all
        with pytest.raises(RequestError) as busy:
            one.compile(GrammarSpec("regex", pattern))
        assert (busy.value.status, busy.value.code) == (503, "grammar_busy")
    gate.set()
    one.close()


BAD: list[tuple[str, Any, str]] = [
    ("regex", "(a", "unclosed group"),
    ("regex", r"(?=a)b", "regex"),
    ("json_schema", {"type": "strin"}, "type"),
    ("json_schema", {"type": "object", "oneOf": [{"minProperties": 1}, {"minProperties": 2}]}, "oneOf"),
    ("json_schema", {"$ref": "#"}, "nothing matches it"),
    ("json_schema", {"$ref": "https://example.com/x"}, "example.com"),
    ("json_schema", {"type": "string", "format": "colour"}, "colour"),
    ("lark", "begin: 'a'", ""),
    ("lark", 'start: start "a"', "nothing matches it"),
    ("lark", 'start: foo "a"', "foo"),
    ("lark", "start: <|start|>", "special tokens"),
    ("lark", "start: <[5]>", "special tokens"),
    ("lark", 'start: a "b"\na[max_tokens=3]: /x*/', "max_tokens"),
    ("lark", 'start: a "b"\na[stop=""]: /x*/', "stop"),
    ("lark", '{"grammars": []}', ""),
    ("gbnf", "x ::= 'a'", ""),
    ("gbnf", 'root ::= ("a"', "Expected"),
    ("gbnf", "root ::= " + "(" * 5000, ""),
    ("gbnf", "\n".join(f'r{i} ::= "a"' for i in range(300)), "at most"),
    ("gbnf", "root ::= foo", "foo"),
]


@pytest.mark.parametrize(("kind", "value", "words"), BAD)
def test_a_bad_grammar_is_a_400_with_the_reason(compiler: GrammarCompiler, kind: str, value: Any, words: str) -> None:
    with pytest.raises(RequestError) as error:
        compiler.compile(make_spec(kind, value, "guided_grammar"))
    assert (error.value.status, error.value.code, error.value.param) == (400, "invalid_grammar", "guided_grammar")
    assert words in str(error.value)
    assert len(str(error.value)) < 450
    assert "backtrace" not in str(error.value)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


MANY_RULES = f"start: {' | '.join(f'r{i}' for i in range(9000))}" + "".join(f"\nr{i}: /{i}+/" for i in range(9000))
HOSTILE: dict[str, tuple[str, Any]] = {
    "exponential in backtracking": ("regex", "(a*)*(a*)*(a*)*b"),
    "exponential in states": ("regex", "(a|b)*a(a|b){60}"),
    "a million": ("regex", "a{1,1000000}"),
    "a million of many": ("regex", r"(\w{1,1000}){1,1000}"),
    "thrice nested counts": ("regex", r"((\w{1,100}){1,100}){1,100}x"),
    "deep": ("regex", "(" * 100_000 + "a" + ")" * 100_000),
    "doubled": ("lark", "start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(16)) + 'A16: "a"?'),
    "many optional": ("regex", "a?" * 50_000 + "a" * 20_000),
    "many alternatives": ("regex", "|".join(f"w{i}x" for i in range(30_000))),
    "all of Unicode": ("regex", r"[\p{L}--a]" + r"\p{L}{1,200}" * 50),
    "left recursion": ("lark", 'start: start start | "a" | ""'),
    "recursion without end": ("lark", 'start: "x" start'),
    "mutual": ("lark", 'start: a\na: b | "x"\nb: a'),
    "deep groups": ("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000),
    "repeated repetition": ("lark", 'start: (("a" | b){1,1000}){1,1000}\nb: ("c"{1,1000}){1,1000}'),
    "difference": ("lark", "start: A\nA: /(a|b)*a(a|b){30}/ & ~/(a|b)*b(a|b){29}/"),
    "many rules": ("lark", MANY_RULES),
    "deep schema": ("json_schema", nested(48)),
    "large arrays": ("json_schema", {"type": "array", "items": {}, "minItems": 10**6, "maxItems": 2 * 10**6}),
    "large strings": ("json_schema", {"type": "string", "minLength": 10**6, "maxLength": 2 * 10**6}),
    "many keys": ("json_schema", {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(5000)}}),
    "all of all": (
        "json_schema",
        {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {"type": "integer"}}} for j in range(6)]} for i in range(8)]},
    ),
    "multiples": ("json_schema", {"allOf": [{"type": "integer", "multipleOf": p} for p in (9973, 9967, 9949)]}),
    "itself": ("json_schema", {"anyOf": [{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}}]}),
    "long yacc": ("yacc", "%%\na: " + "'x' " * 40_000 + ";"),
    "many yacc rules": ("yacc", "%%\n" + "".join(f"a{i}: a{i + 1} 'x' | ;\n" for i in range(1900)) + "a1900: 'y';"),
    "yacc of braces": ("yacc", "%%\na: " + "{" * 200_000),
    "yacc of comments": ("yacc", "/*" * 100_000),
    "a choice of all": ("choice", [f"{i * 7919 % 100_003:020d}" for i in range(4096)]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_ends(compiler: GrammarCompiler, name: str) -> None:
    """Refused, or compiled and then walked a while. Time is bounded by the compiler, memory here."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = None
    try:
        matcher = compiler.compile(make_spec(*HOSTILE[name])).matcher()
        for _ in range(30):
            if matcher.is_finished:
                break
            choices = [i for i in allowed(matcher.mask()) if i != TOKENIZER.token_to_id(END)]
            matcher.accept([int(choices[len(choices) // 2])] if choices else [TOKENIZER.token_to_id(END)])
    except RequestError as error:
        refused = (error.status, error.code)
    assert refused in (None, (400, "invalid_grammar"), (400, "grammar_failed"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * MIB


def test_ten_megabytes_are_refused_at_once(compiler: GrammarCompiler) -> None:
    with pytest.raises(RequestError, match="at most 262144 bytes, got 10485760"):
        make_spec("regex", "a" * (10 * 1024 * 1024))


def test_classes_of_a_regex_are_ascii(compiler: GrammarCompiler) -> None:
    assert takes(compiler, TOKENIZER, make_spec("regex", r"\d\w\s"), "1a ")
    for text in ("\u0661a ", "1é ", "1a\u00a0"):
        assert not takes(compiler, TOKENIZER, make_spec("regex", r"\d\w\s"), text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("regex", r"<\|end\|>!"),
        ("choice", ["<|end|>!"]),
        ("lark", 'start: "<|end|>" "!"'),
        ("yacc", "%%\na: '<|end|>' '!';"),
    ],
)
def test_the_text_of_a_special_token_is_not_the_token(compiler: GrammarCompiler, kind: str, value: Any) -> None:
    matcher = compiler.compile(make_spec(kind, value)).matcher()
    while not matcher.is_finished:
        choices = [i for i in allowed(matcher.mask()) if i not in special_ids(TOKENIZER)]
        assert choices, "only a special token may come"
        matcher.accept([int(choices[-1])])
    assert compiler.prepare().is_special_token(TOKENIZER.token_to_id(END))


def test_every_end_of_the_model_ends_and_padding_never_comes(smollm2: Package) -> None:
    tokenizer = smollm2.tokenizer()
    vocab_size = tokenizer.get_vocab_size() + 33
    one = GrammarCompiler(tokenizer, vocab_size, (2, 0))
    matcher = one.compile(make_spec("regex", "(?s:.)*")).matcher()
    choices = set(allowed(matcher.mask()).tolist())
    assert matcher.mask().shape == ((vocab_size + 31) // 32,)
    assert choices & set(range(17)) == {0, 2}, "of the special tokens, the two ends"
    assert max(choices) < tokenizer.get_vocab_size()
    for end in (0, 2):
        other = one.compile(make_spec("regex", "(?s:.)*")).matcher()
        other.accept([end])
        assert other.has_ended


def test_bytes_of_tokens_are_those_of_the_tokenizer(smollm2: Package) -> None:
    tokenizer = smollm2.tokenizer()
    ll = GrammarCompiler(tokenizer, tokenizer.get_vocab_size(), smollm2.manifest.eos_token_ids).prepare()
    text = "Hello, wörld! 😀\n\tdef f(x):  return x"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ll.decode_bytes(ids) == text.encode()
    assert ll.tokenize_str(text) == ids


def test_a_tokenizer_without_bytes_is_refused_for_grammars() -> None:
    plain = Tokenizer(models.WordLevel({"a": 0, "[END]": 1}, unk_token="a"))
    with pytest.raises(RequestError, match="cannot be held to a grammar") as error:
        GrammarCompiler(plain, 2, [1]).compile(make_spec("regex", "a"))
    assert error.value.code == "unsupported"
