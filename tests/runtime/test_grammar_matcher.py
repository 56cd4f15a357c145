"""The state of one request: masks, forced tokens, drafts, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from grammar_walks import END, Walk, allowed, byte_tokenizer, compiler_of

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.compiler import GrammarCompiler
from mistralrs_onnx.runtime.grammar.limits import GrammarLimits
from mistralrs_onnx.runtime.grammar.masks import MaskJob, MaskWorker, masks
from mistralrs_onnx.runtime.grammar.matcher import Matcher, allows
from mistralrs_onnx.runtime.grammar.spec import make_spec

TOKENIZER = byte_tokenizer()
VOCAB = TOKENIZER.get_vocab_size()
EOS = TOKENIZER.token_to_id(END)
ITEM = {
    "type": "object",
    "properties": {"item": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["item", "n"],
}
GRAMMARS = [("regex", "(ab|cd)*x"), ("json_schema", ITEM), ("lark", 'start: "(" start ")" | /[a-z]+/')]


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return found


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = compiler_of(TOKENIZER, END)
    yield made
    made.close()


@pytest.fixture(scope="module")
def matcher_of(compiler: GrammarCompiler) -> Callable[[str, object], Matcher]:
    return lambda kind, value: compiler.compile(make_spec(kind, value)).matcher()


Make = Callable[[str, object], Matcher]


def state(matcher: Matcher) -> tuple[list[int], bool, bool, list[int]]:
    return allowed(matcher.mask()).tolist(), matcher.can_end, matcher.is_finished, matcher.forced()


@pytest.mark.parametrize(("kind", "value"), GRAMMARS)
@pytest.mark.parametrize("seed", range(6))
def test_taking_back_leaves_what_a_new_matcher_has(
    compiler: GrammarCompiler, kind: str, value: object, seed: int
) -> None:
    """Any number of tokens, ends and forced tokens among them, several times over."""
    grammar = compiler.compile(make_spec(kind, value))
    walk = Walk(grammar, TOKENIZER, seed, max_tokens=40)
    matcher, rng = grammar.matcher(), np.random.default_rng(seed)
    matcher.accept(walk.token_ids)
    if matcher.is_finished and not matcher.has_ended:
        walk.token_ids.append(EOS)
        matcher.accept([EOS])
    kept = len(walk.token_ids)
    while kept:
        num_back = int(rng.integers(1, kept + 1))
        kept -= num_back
        matcher.rollback(num_back)
        fresh = grammar.matcher()
        fresh.accept(walk.token_ids[:kept])
        assert state(matcher) == state(fresh)
        again = walk.token_ids[kept : kept + int(rng.integers(0, num_back))]
        matcher.accept(again)
        matcher.rollback(len(again))
        assert (state(matcher), matcher.num_tokens) == (state(fresh), kept)


@pytest.mark.parametrize(("kind", "value"), GRAMMARS)
@pytest.mark.parametrize("seed", range(4))
def test_forced_tokens_are_the_only_allowed_ones(
    compiler: GrammarCompiler, kind: str, value: object, seed: int
) -> None:
    grammar = compiler.compile(make_spec(kind, value))
    walk = Walk(grammar, TOKENIZER, seed, max_tokens=40)
    matcher, num_forced = grammar.matcher(), 0
    for token_id in walk.token_ids:
        forced = matcher.forced()
        for one in forced:
            assert allowed(matcher.mask()).tolist() == [one]
            matcher.accept([one])
            num_forced += 1
        matcher.rollback(len(forced))
        matcher.accept([token_id])
    assert kind != "json_schema" or num_forced


def test_text_that_must_come_is_one_jump(matcher_of: Make) -> None:
    matcher = matcher_of("regex", 'the item is: "[a-z]+" and no more')
    forced = matcher.forced()
    assert TOKENIZER.decode(forced).startswith("the item is")
    matcher.accept(ids('the item is: "ab"'))
    assert matcher.forced() == ids(" and no more")
    matcher.accept(matcher.forced())
    assert (matcher.is_finished, matcher.can_end, matcher.forced()) == (True, True, [])
    assert allowed(matcher.mask()).tolist() == [EOS]


def test_an_end_comes_where_it_may_and_once(matcher_of: Make) -> None:
    matcher = matcher_of("regex", "ab*")
    assert not matcher.can_end
    assert not allows(matcher.mask(), EOS)
    with pytest.raises(RequestError) as error:
        matcher.accept([EOS])
    assert (error.value.status, error.value.code) == (500, "grammar_violation")
    matcher.accept(ids("a"))
    assert (matcher.can_end, matcher.is_finished, matcher.has_ended) == (True, False, False)
    matcher.accept([EOS])
    assert (matcher.is_finished, matcher.has_ended) == (True, True)
    with pytest.raises(RequestError):
        matcher.accept([EOS])
    matcher.rollback(1)
    assert allows(matcher.mask(), ids("b")[0])


def test_a_forbidden_token_fails_its_request_alone(matcher_of: Make) -> None:
    matcher, other = matcher_of("regex", "a[bc]d"), matcher_of("regex", "a[bc]d")
    with pytest.raises(RequestError, match="does not keep to the grammar after 1 tokens"):
        matcher.accept([*ids("a"), *ids("d")])
    matcher.accept(ids("c"))  # and even it could go on
    other.accept(ids("a"))
    assert sorted(allowed(other.mask())) == sorted(ids("b") + ids("c"))


@pytest.mark.parametrize(
    ("draft", "num_valid"),
    [("", 0), ("a", 1), ("ax", 1), ("xa", 0), ("abdb", 4), ("abdbc", 4), ("abdb$", 5), ("a$", 1)],
)
def test_drafts_are_held_to_the_grammar(matcher_of: Make, draft: str, num_valid: int) -> None:
    """`$` stands for the end, after which there is no further mask."""
    matcher = matcher_of("regex", "[ac][bd]{1,6}")
    token_ids = [EOS if letter == "$" else ids(letter)[0] for letter in draft]
    rows = matcher.masks_along(token_ids).copy()
    assert matcher.validate(token_ids) == num_valid
    assert len(rows) == num_valid + (not (draft.endswith("$") and num_valid == len(draft)))
    for i, row in enumerate(rows):
        fresh = matcher_of("regex", "[ac][bd]{1,6}")
        fresh.accept(token_ids[:i])
        assert (row == fresh.mask()).all()
    assert matcher.num_tokens == 0


def test_a_draft_in_an_unusual_tokenization_is_valid_but_masked(matcher_of: Make) -> None:
    """Drafts must be judged by masks: those are what a model without drafts would see."""
    matcher = matcher_of("regex", "ab{1,6}")
    draft = [*ids("a"), *ids("b")]
    assert (matcher.validate(draft), len(matcher.masks_along(draft))) == (2, 1)
    assert allowed(matcher.mask()).tolist() == ids("ab")


def test_masks_of_a_batch_are_those_of_each(matcher_of: Make) -> None:
    worker = MaskWorker(VOCAB, num_threads=2)
    matchers = [matcher_of(*GRAMMARS[i % 3]) for i in range(7)]
    matchers[5].accept(ids("(("))
    expected = [matcher.mask().copy() for matcher in matchers]
    for found, mask in zip(masks(matchers, worker), expected, strict=True):
        assert isinstance(found, np.ndarray)
        assert (found == mask).all()
    drafts = [(), (), (), ids("cdab"), ids('{"'), ids("xx"), ids("abx")]
    worker.begin([MaskJob(*job) for job in zip(matchers, drafts, strict=True)])
    results = [found.copy() for found in worker.wait() if isinstance(found, np.ndarray)]
    for matcher, draft, found in zip(matchers, drafts, results, strict=True):
        assert (found == matcher.masks_along(draft)).all()
    worker.close()


def test_a_lexer_that_one_request_fills_fails_no_other() -> None:
    """Matchers of a grammar share a lexer, and llguidance gives it up for all of them once it is full."""
    limits = GrammarLimits(max_lexer_states=120)
    small = GrammarCompiler(TOKENIZER, VOCAB, [EOS], limits)
    spec, worker = make_spec("regex", "(a|b)*a(a|b){40}c|[d-f]{3}"), MaskWorker(VOCAB)
    grammar = small.compile(spec)
    greedy, modest = grammar.matcher(), grammar.matcher()
    rng, letters = np.random.default_rng(0), [*ids("a"), *ids("b")]
    error: object = None
    while not isinstance(error, RequestError) and greedy.num_tokens < 500:
        greedy.accept([int(rng.choice(letters))])
        (error,) = masks([greedy], worker)
    assert isinstance(error, RequestError)
    assert (error.status, error.code) == (400, "grammar_failed")
    assert "too many states" in str(error)
    assert greedy.num_tokens > 10
    for letter in "def":
        (mask,) = masks([modest], worker)
        assert isinstance(mask, np.ndarray)
        assert allows(mask[0], ids(letter)[0])
        modest.accept(ids(letter))
    assert modest.is_finished
    late = small.compile(spec)
    assert late is not grammar, "new requests get a new lexer"
    late.matcher().accept(ids("def"))
    small.close()
