"""Whatever tokens are drawn from the masks, a finished output is what the grammar says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from grammar_strategies import FORMATS_CHECKED, Json, Regex
from grammar_walks import END, Walk, YaccChecker, allowed, byte_tokenizer, compiler_of
from hypothesis import Phase, given, settings
from llguidance import LLMatcher
from tokenizers import Tokenizer
from yacc_grammars import JSON, YACC

from mistralrs_onnx.runtime.grammar.compiler import GrammarCompiler
from mistralrs_onnx.runtime.grammar.source import to_llguidance
from mistralrs_onnx.runtime.grammar.spec import make_spec
from mistralrs_onnx.runtime.package import Package


class Model:
    """A tokenizer and its compiler, without a repr of pages."""

    def __init__(self, tokenizer: Tokenizer, compiler: GrammarCompiler) -> None:
        self.tokenizer, self.compiler = tokenizer, compiler

    def walk(self, kind: str, value: Any, seed: int, **options: Any) -> Walk:
        walk = Walk(self.compiler.compile(make_spec(kind, value)), self.tokenizer, seed, **options)
        assert walk.num_special == 0, "only an end may be special"
        return walk

    def finished(self, kind: str, value: Any, count: int, **options: Any) -> list[str]:
        walks = [self.walk(kind, value, seed, **options) for seed in range(count)]
        texts = [walk.text for walk in walks if walk.is_whole]
        assert texts, "no walk came to an end"
        return texts


@pytest.fixture(scope="module")
def tiny() -> Iterator[Model]:
    tokenizer = byte_tokenizer()
    compiler = compiler_of(tokenizer, END, padding=37)
    yield Model(tokenizer, compiler)
    compiler.close()


@pytest.fixture(scope="module")
def real(smollm2: Package) -> Iterator[Model]:
    manifest, tokenizer = smollm2.manifest, smollm2.tokenizer()
    compiler = GrammarCompiler(tokenizer, manifest.vocab_size, manifest.eos_token_ids)
    yield Model(tokenizer, compiler)
    compiler.close()


@pytest.fixture(params=["tiny", "real"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


REGEXES = [r"[a-c]{2,5}x?", r"(foo|ba[rz])+", r"\d{3}-\d{4}", r"é+ü|[α-ω]{2}", r'"([^"\\]|\\.)*"', r"a/b\\c", r"(ab)*"]


@pytest.mark.parametrize("pattern", REGEXES)
def test_regex(model: Model, pattern: str) -> None:
    for text in model.finished("regex", pattern, 8):
        assert re.fullmatch(pattern, text, re.DOTALL)


CHOICES = ["yes", "no", "no, never", 'a "quoted" / one', "é\n", "a.b*"]


def test_choice(model: Model) -> None:
    texts = model.finished("choice", CHOICES, 60)
    assert set(texts) <= set(CHOICES)
    assert len(set(texts)) > 3


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "n": {"type": "integer"}},
     "required": ["name", "n"], "additionalProperties": False},
    {"type": "array", "items": {"enum": ["a", 1, None, True]}, "minItems": 1, "maxItems": 4},
    {"anyOf": [{"type": "number", "minimum": -1.5, "maximum": 10}, {"type": "boolean"}]},
    {"$defs": {"tree": {"type": "object", "properties": {"l": {"$ref": "#/$defs/tree"}, "v": {"type": "null"}},
     "required": ["v"], "additionalProperties": False}}, "$ref": "#/$defs/tree"},
    {"type": "object", "properties": {"p": {"type": "string", "pattern": "^[a-z]{1,3}$"}}, "required": ["p"],
     "additionalProperties": False},
    {"type": "string", "format": "date"},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_json_schema(model: Model, schema: dict[str, Any]) -> None:
    for text in model.finished("json_schema", schema, 8):
        jsonschema.validate(json.loads(text), schema)


def test_json_object(model: Model) -> None:
    assert all(isinstance(json.loads(text), dict) for text in model.finished("json_object", "", 8, patience=4))


def test_spaces_in_json_end(model: Model) -> None:
    """A model that likes to begin with spaces must come to the point."""
    matcher = model.compiler.compile(make_spec("json_object", "")).matcher()
    opening, space = model.tokenizer.encode("{", add_special_tokens=False).ids, model.tokenizer.token_to_id("Ġ")
    matcher.accept(opening)
    assert matcher.validate([space] * 100) == 40


def test_lark(model: Model) -> None:
    grammar = 'start: item ("," item)*\nitem: /[a-z]{1,3}/ | "(" start ")"\n'
    for text in model.finished("lark", grammar, 8):
        while (inner := re.sub(r"\([a-z]{1,3}(,[a-z]{1,3})*\)", "x", text)) != text:
            text = inner
        assert re.fullmatch(r"[a-z]{1,3}(,[a-z]{1,3})*", text)


def test_gbnf(model: Model) -> None:
    grammar = r"""
# moves
root ::= (move " ")? move "\u0021"
move ::= [NBRQK]? [a-h] [1-8] ("\x3d" [\u0051R])?
"""
    for text in model.finished("gbnf", grammar, 8):
        assert re.fullmatch(r"([NBRQK]?[a-h][1-8](=[QR])? )?[NBRQK]?[a-h][1-8](=[QR])?!", text)


@pytest.mark.parametrize("name", YACC)
def test_yacc(model: Model, name: str) -> None:
    checker = YaccChecker(YACC[name])
    texts = model.finished("yacc", YACC[name], 30, max_tokens=60, patience=6)
    for text in texts:
        assert checker.accepts(text), text


def test_yacc_json_is_json(model: Model) -> None:
    for text in model.finished("yacc", JSON, 12, patience=6):
        json.loads(text)


def test_a_walk_with_every_mask_is_never_empty_handed(tiny: Model) -> None:
    """The start of a grammar allows exactly what some output begins with."""
    walk = tiny.walk("regex", "a|b{3}", 0)
    assert walk.text in ("a", "bbb")


QUICK = settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
FULL_SCHEMAS, FULL_REGEXES = settings(QUICK, max_examples=300), settings(QUICK, max_examples=100)


def check_schema(model: Model, schema: dict[str, Any]) -> None:
    walk = model.walk("json_schema", schema, 1, max_tokens=400)
    if walk.is_whole:
        jsonschema.validate(json.loads(walk.text), schema, format_checker=FORMATS_CHECKED)


def check_regex(model: Model, pattern: str) -> None:
    walk = model.walk("regex", pattern, 1)
    if walk.is_whole:
        assert re.fullmatch(pattern, walk.text, re.DOTALL)


@QUICK
@given(Json)
def test_generated_schemas(tiny: Model, schema: dict[str, Any]) -> None:
    check_schema(tiny, schema)


@QUICK
@given(Regex)
def test_generated_regexes(tiny: Model, pattern: str) -> None:
    check_regex(tiny, pattern)


@pytest.mark.full
@FULL_SCHEMAS
@given(Json)
def test_300_schemas(real: Model, schema: dict[str, Any]) -> None:
    check_schema(real, schema)


@pytest.mark.full
@FULL_REGEXES
@given(Regex)
def test_100_regexes(real: Model, pattern: str) -> None:
    check_regex(real, pattern)


WORDY = [
    ("regex", r"[A-Z][a-z ,]{20,200}\."),
    ("regex", r"([A-Za-z]+[ ,.\n]+){2000}"),
    ("regex", r"[a-zA-Z0-9_]{1,8}"),
    ("regex", r"[a-z]{1,9} [a-z]{3,11}[^a-z]*"),
    ("json_schema", {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]{2,20}$"}}}),
    ("lark", 'start: (/[a-z]+/ | /[A-Z]{1,12}/ " ")* /.{0,30}/'),
]


@pytest.mark.parametrize(("kind", "value"), WORDY)
def test_tokens_that_are_taken_together_change_no_mask(real: Model, kind: str, value: Any) -> None:
    """Along outputs in which longer words are likelier than they would be by equal chances."""
    tokens, spec = real.compiler.prepare(), make_spec(kind, value)
    one_by_one = LLMatcher(tokens.with_slices([]), to_llguidance(spec), log_level=0)
    texts = [tokens.decode_bytes([i]) for i in range(tokens.vocab_size)]
    chances = np.array([100.0 if len(text) > 2 and text.strip().isalpha() else 1.0 for text in texts])
    num_words = 0
    for seed in range(5):
        matcher, rng = real.compiler.compile(spec).matcher(), np.random.default_rng(seed)
        one_by_one.reset()
        for _ in range(30):
            if matcher.is_finished or matcher.has_ended:
                break
            mask = matcher.mask()
            assert mask.tobytes() == one_by_one.compute_bitmask()[: mask.nbytes]
            choices = allowed(mask)
            token_id = int(rng.choice(choices, p=chances[choices] / chances[choices].sum()))
            num_words += len(choices) > 1000
            matcher.accept([token_id])
            if not matcher.has_ended:
                one_by_one.consume_token(token_id)
    assert num_words > 5, "masks that have many words"
