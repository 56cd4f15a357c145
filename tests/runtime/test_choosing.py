"""Grammars, guesses, log probabilities and scored prompts in the engine: each equals the slow way, also together."""

from __future__ import annotations

import json
import queue
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.runtime.engine import Engine, EngineOptions, Output
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.compiler import Grammar, GrammarCompiler
from mistralrs_onnx.runtime.grammar.masks import MaskWorker
from mistralrs_onnx.runtime.grammar.spec import make_spec
from mistralrs_onnx.runtime.logprobs import TokenLogprobs, token_logprobs
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampler import Sampler
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.speculation import Speculation

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
REGEX = r"(cat|dog|fish){2,5}!"
PARAMS = [
    SamplingParams(temperature=0, max_tokens=60),
    SamplingParams(seed=1, max_tokens=60),
    SamplingParams(seed=2, temperature=1.3, top_p=0.95, repetition_penalty=1.1, frequency_penalty=0.2, max_tokens=60),
]


@pytest.fixture(scope="module")
def end(tokenizer: Tokenizer) -> int:
    return int(tokenizer.token_to_id("<|end|>"))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer, end: int) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(tokenizer, tokenizer.get_vocab_size(), [end])
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def regex(compiler: GrammarCompiler) -> Grammar:
    return compiler.compile(make_spec("regex", REGEX))


@pytest.fixture(scope="module")
def schema(compiler: GrammarCompiler) -> Grammar:
    return compiler.compile(make_spec("json_schema", SCHEMA))


Start = Callable[..., Engine]


@pytest.fixture
def start(fake: Any, tokenizer: Tokenizer, end: int) -> Iterator[Start]:
    engines: list[Engine] = []

    def start(speculation: Speculation | None = None, runner: Any = None, **options: Any) -> Engine:
        worker = MaskWorker(tokenizer.get_vocab_size())
        args = frozenset([end]), 4096, EngineOptions(**options), speculation, worker
        engines.append(Engine(runner or fake(), tokenizer, *args))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


class Box(queue.SimpleQueue[Output]):
    """An answer, whole."""

    def whole(self) -> tuple[tuple[int, ...], str, list[TokenLogprobs], Output]:
        ids: list[int] = []
        text, logprobs = "", []
        while True:
            output = self.get(timeout=60)
            ids += output.token_ids
            text += output.text
            logprobs += output.logprobs
            if output.finish_reason is not None:
                return tuple(ids), text, logprobs, output


def slowly(
    logits_of: Any, prompt: Sequence[int], params: SamplingParams, grammar: Grammar, end: int
) -> tuple[tuple[int, ...], list[TokenLogprobs]]:
    """One token after the other, nothing beside it, nothing guessed and nothing forced."""
    request = Request(0, np.array(prompt), params, 10**6, params.seed or 0)
    matcher, sampler, logprobs = grammar.matcher(), Sampler(frozenset([end])), []
    while request.num_output < (params.max_tokens or 0) and not matcher.is_finished:
        request.mask = matcher.mask().copy()
        logits = logits_of(request.token_ids)
        token = sampler.sample(logits[None], [request]).token_ids[0]
        if params.logprobs is not None:
            logprobs.append(token_logprobs(logits, token, params.logprobs))
        request.append(token)
        matcher.accept([token])
        if token == end:
            break
    return tuple(request.token_ids[len(prompt) :]), logprobs


class Guesser:
    """Guesses noise, and now and then what it saw last."""

    seconds_per_token = 0.0

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[list[int]]:
        return [
            [int(self.rng.choice([*request.token_ids, *range(256)])) for _ in range(length)]
            for request, length in zip(requests, lengths, strict=True)
        ]

    def forget(self, request: Request) -> None:
        pass


@pytest.mark.parametrize("guesses", [False, True])
def test_constrained_answers_are_those_of_the_slow_way(
    start: Start, regex: Grammar, schema: Grammar, logits_of: Any, end: int, guesses: bool
) -> None:
    """Greedy, sampled, penalized; beside answers that keep to no grammar; with text that grammars force at once."""
    engine = start(Speculation(Guesser(), 4, adaptive=False) if guesses else None, prefill_chunk=20)
    asked = [(list(range(7 + i, 30 + 3 * i)), PARAMS[i % 3], (regex, schema)[i % 2], Box()) for i in range(12)]
    free, plain = Box(), [5, 6, 7]
    engine.submit(plain, PARAMS[1], free.put)
    for prompt, params, grammar, box in asked:
        engine.submit(prompt, params, box.put, grammar=grammar)
    for prompt, params, grammar, box in asked:
        ids, text, _, last = box.whole()
        assert ids == slowly(logits_of, prompt, params, grammar, end)[0]
        if last.finish_reason == "stop":
            assert is_valid(text, grammar is schema), text
    assert free.whole()[3].error is None


def test_forced_text_takes_no_steps_of_its_own(start: Start, compiler: GrammarCompiler) -> None:
    grammar, engine, box = compiler.compile(make_spec("regex", "x[0-9]: the rest is always this!")), start(), Box()
    engine.submit([1, 2, 3], PARAMS[1], box.put, grammar=grammar)
    ids, text, _, last = box.whole()
    assert re.fullmatch("x[0-9]: the rest is always this!", text)
    assert last.finish_reason == "stop"
    assert engine.stats().steps < 6 < len(ids)


def is_valid(text: str, is_json: bool) -> bool:
    if not is_json:
        return re.fullmatch(REGEX, text) is not None
    value = json.loads(text)
    return set(value) == {"name", "age"} and value["name"] in ("Ann", "Bob") and 0 <= value["age"] <= 99


def test_log_probabilities_are_those_of_the_model(start: Start, schema: Grammar, logits_of: Any, end: int) -> None:
    """Of tokens that were guessed and forced too, with a mask that the probabilities know nothing of."""
    params = SamplingParams(seed=4, logprobs=3, max_tokens=60)
    engine, box, prompt = start(Speculation(Guesser(), 3, adaptive=False)), Box(), list(range(40))
    engine.submit(prompt, params, box.put, grammar=schema)
    ids, _, logprobs, _ = box.whole()
    expected_ids, expected = slowly(logits_of, prompt, params, schema, end)
    assert ids == expected_ids
    assert [each.token_id for each in logprobs] == list(ids)
    for found, wanted in zip(logprobs, expected, strict=True):
        assert found.logprob == pytest.approx(wanted.logprob, abs=1e-6)
        assert [top.token_id for top in found.top] == [top.token_id for top in wanted.top]


@pytest.mark.parametrize("kv_mem", [None, 300 * 100])
def test_prompts_are_scored_whatever_is_cached(start: Start, logits_of: Any, kv_mem: int | None) -> None:
    prompt = np.random.default_rng(0).integers(0, 256, 120).tolist()
    engine = start(prefill_chunk=50, kv_mem=kv_mem, max_model_len=190, max_seqs=4)
    boxes = [Box() for _ in range(3)]
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    engine.submit(prompt, params, boxes[0].put)
    boxes[0].whole()  # what is cached now is read again
    asked = [engine.submit(prompt, params, box.put, prompt_logprobs=2) for box in boxes[1:]]
    for request, box in zip(asked, boxes[1:], strict=True):
        box.whole()
        assert request.prompt_logprobs is not None
        assert len(request.prompt_logprobs) == len(prompt)
        assert request.prompt_logprobs[0] is None
        for i in (1, 2, 63, 64, 65, 119):
            found, wanted = request.prompt_logprobs[i], token_logprobs(logits_of(prompt[:i]), prompt[i], 2)
            assert found is not None
            assert found.token_id == prompt[i]
            assert found.logprob == pytest.approx(wanted.logprob, abs=1e-6)
            assert found.top == wanted.top
    if kv_mem is not None:
        assert engine.stats().preemptions > 0


def test_a_grammar_that_fails_ends_its_request_alone(
    start: Start, compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, grammar = start(), compiler.compile(make_spec("regex", "a{30}b"))
    other, box = Box(), Box()
    request = engine.submit([9, 9], PARAMS[0], box.put, grammar=grammar)
    monkeypatch.setattr(request.matcher, "accept", _refuse)
    engine.submit([1, 2, 3], SamplingParams(seed=1, max_tokens=20, ignore_eos=True), other.put)
    last = box.whole()[3]
    assert last.error is not None
    assert last.error.code == "grammar_failed"
    assert len(other.whole()[0]) == 20


def _refuse(token_ids: Sequence[int]) -> None:
    raise RequestError("the grammar failed", code="grammar_failed")


def test_what_leaves_no_token_is_the_requests_error(start: Start, compiler: GrammarCompiler) -> None:
    grammar, box = compiler.compile(make_spec("regex", "[a-z]+")), Box()
    start().submit([1], SamplingParams(allowed_token_ids=frozenset([250]), max_tokens=5), box.put, grammar=grammar)
    error = box.whole()[3].error
    assert error is not None
    assert (error.status, error.code) == (400, "no_token_left")


def test_a_whole_output_ends_where_no_token_is_left(
    start: Start, compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    """More is asked for than the grammar has, or bad words leave: what is there keeps to it."""
    letter, box, other = tokenizer.token_to_id("a"), Box(), Box()
    engine, grammar = start(), compiler.compile(make_spec("regex", "a{1,30}"))
    engine.submit(
        [1], SamplingParams(min_tokens=9, max_tokens=50, bad_words=((letter,) * 3,)), box.put, grammar=grammar
    )
    engine.submit([1], SamplingParams(min_tokens=40, max_tokens=50), other.put, grammar=grammar)
    for each, text in ((box, "aa"), (other, "a" * 30)):
        _, found, _, last = each.whole()
        assert (found, last.finish_reason, last.error) == (text, "stop", None)


def test_a_cancelled_request_takes_its_grammar_along(start: Start, compiler: GrammarCompiler) -> None:
    engine, grammar, box = start(), compiler.compile(make_spec("regex", "[a-z]{2000}")), Box()
    request = engine.submit([1], SamplingParams(seed=1, max_tokens=3000), box.put, grammar=grammar)
    box.get(timeout=60)
    engine.cancel(request)
    assert box.whole()[3].finish_reason == "cancelled"
    assert list(engine.generate([1, 2], PARAMS[0]))[-1].finish_reason is not None


def test_an_end_ends_what_ignores_ends(start: Start, compiler: GrammarCompiler, end: int) -> None:
    """Nothing may follow it in a grammar."""
    grammar, box = compiler.compile(make_spec("regex", "[a-z]{1,5}")), Box()
    params = SamplingParams(temperature=0, ignore_eos=True, logit_bias={end: 100.0}, max_tokens=30)
    start().submit([4, 4], params, box.put, grammar=grammar)
    ids, text, _, last = box.whole()
    assert last.finish_reason == "stop"
    assert ids[-1] == end
    assert re.fullmatch("[a-z]{1,5}", text.removesuffix("<|end|>"))
