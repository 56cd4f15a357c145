"""Every pair of features, all requests at once on one engine that also guesses, against the slow way: one by one."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
from golden import read_golden
from served_lora import Served
from tiny_lora import make_adapter
from tiny_models import VOCAB, write_folder
from tokenizers import Tokenizer, decoders

from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.engine import Engine, EngineOptions, Output
from mistralrs_onnx.runtime.grammar.compiler import Grammar, GrammarCompiler
from mistralrs_onnx.runtime.grammar.masks import MaskWorker
from mistralrs_onnx.runtime.grammar.spec import make_spec
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.request import Request
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.speculation import PromptLookup, Speculation

END = 1
SHARED = [i * 37 % (VOCAB - 2) + 2 for i in range(24)]


@dataclass
class Wanted:
    """A request as features leave it. `is_cancelled`: after its first output, and then nothing is compared."""

    ids: list[int]
    params: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.9, "seed": 5, "max_tokens": 24})
    adapter: Adapter | None = None
    grammar: Grammar | None = None
    n: int = 1
    prompt_logprobs: int | None = None
    is_cancelled: bool = False

    def choices(self) -> list[SamplingParams]:
        return [SamplingParams(**self.params | {"seed": self.params["seed"] + i}) for i in range(self.n)]


class Features:
    """What each does to a request."""

    def __init__(self, adapter: Adapter, grammar: Grammar) -> None:
        self._adapter, self._grammar = adapter, grammar

    def penalties(self, wanted: Wanted) -> None:
        wanted.params |= {"frequency_penalty": 0.6, "repetition_penalty": 1.2, "dry_multiplier": 0.8}

    def greedy(self, wanted: Wanted) -> None:
        wanted.params |= {"temperature": 0.0}

    def filters(self, wanted: Wanted) -> None:
        wanted.params |= {"top_p": 0.9, "top_k": 20, "min_p": 0.02, "logit_bias": {20: 2.0, 21: -3.0}}

    def grammar(self, wanted: Wanted) -> None:
        wanted.grammar = self._grammar

    def lora(self, wanted: Wanted) -> None:
        wanted.adapter = self._adapter

    def logprobs(self, wanted: Wanted) -> None:
        wanted.params |= {"logprobs": 2}

    def scored(self, wanted: Wanted) -> None:
        wanted.prompt_logprobs = 1

    def choices(self, wanted: Wanted) -> None:
        wanted.n = 3

    def stops(self, wanted: Wanted) -> None:
        wanted.params |= {"stop_token_ids": frozenset(range(30, 40)), "stop": ("q",), "min_tokens": 3}

    def prefix(self, wanted: Wanted) -> None:
        wanted.ids = [*SHARED, *wanted.ids[:3]]

    def cancel(self, wanted: Wanted) -> None:
        wanted.is_cancelled = True


NAMES = [name for name in vars(Features) if not name.startswith("_")]
PAIRS = [*combinations(NAMES, 2), *((name,) for name in NAMES)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("pairs")
    model = write_folder(read_golden()["llama"].model, folder / "model")
    return Served(open_package(compile_folder(model, folder / "package", CompileOptions(isq=Isq("Q4_0")))))


@pytest.fixture(scope="module")
def features(served: Served) -> Iterator[Features]:
    compiler = GrammarCompiler(tokenizer_of(served), VOCAB, [END])
    grammar = compiler.compile(make_spec("regex", "(one|two|three|ab)(-(one|two|three|ab)){2,6}"))
    yield Features(make_adapter("adapter", served.groups, 8, 1), grammar)
    compiler.close()


def tokenizer_of(served: Served) -> Tokenizer:
    tokenizer = served.package.tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def make_engine(served: Served, options: EngineOptions, speculation: Speculation | None) -> Engine:
    runner = served.runner(num_slots=2 * options.max_seqs, num_lanes=options.max_seqs)
    engine = Engine(runner, tokenizer_of(served), frozenset([END]), 128, options, speculation, MaskWorker(VOCAB))
    engine.start()
    return engine


class Answer:
    """A sink, and what it got."""

    def __init__(self, request: Wanted) -> None:
        self.wanted = request
        self.request: Request | None = None
        self._outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self.first = True

    def __call__(self, output: Output) -> None:
        self._outputs.put(output)

    def result(self, engine: Engine) -> Any:
        ids, text, logprobs = [], "", []
        while True:
            output = self._outputs.get(timeout=120)
            if self.wanted.is_cancelled and self.request is not None:
                engine.cancel(self.request)
            ids += output.token_ids
            text += output.text
            logprobs += [(each.token_id, round(each.logprob, 5), each.top) for each in output.logprobs]
            if output.finish_reason is not None:
                break
        if self.wanted.is_cancelled:
            return None
        assert output.error is None, output.error
        assert self.request is not None
        return ids, text, logprobs, output.finish_reason, output.stop_reason, self.request.prompt_logprobs


def submit(engine: Engine, wanted: Wanted, *, forks: bool) -> list[Answer]:
    answers: list[Answer] = []
    for params in wanted.choices():
        answer = Answer(wanted)
        answer.request = engine.submit(
            wanted.ids,
            params,
            answer,
            adapter=wanted.adapter,
            parent=answers[0].request if forks and answers else None,
            grammar=wanted.grammar,
            prompt_logprobs=wanted.prompt_logprobs,
        )
        answers.append(answer)
    return answers


def wanted_of(features: Features, names: Sequence[str], number: int) -> Wanted:
    wanted = Wanted([number * 11 % (VOCAB - 2) + 2, *([40, 41, 42, 43] * 4), number % 90 + 2])
    for name in names:
        getattr(features, name)(wanted)
    return wanted


def test_every_pair_equals_the_way_without_a_cache(served: Served, features: Features) -> None:
    """A few of them, for nothing is kept of what was computed."""
    asked = [wanted_of(features, names, i) for i, names in enumerate(PAIRS)][::3]
    found = []
    for kv_cache in (True, False):
        speculation = None if kv_cache else Speculation(PromptLookup(), 4, adaptive=False)
        options = EngineOptions(max_seqs=8, prefill_chunk=16, max_queue=300, kv_cache=kv_cache)
        engine = make_engine(served, options, speculation)
        answers = [submit(engine, wanted, forks=True) for wanted in asked]
        found.append([[each.result(engine) for each in of_one] for of_one in answers])
        engine.close()
    assert found[0] == found[1]


def test_every_pair_equals_the_slow_way(served: Served, features: Features) -> None:
    asked = [wanted_of(features, names, i) for i, names in enumerate(PAIRS)]
    slow = make_engine(served, EngineOptions(max_seqs=1, prefix_cache=False, prefill_chunk=64), None)
    expected = [[each.result(slow) for each in submit(slow, wanted, forks=False)] for wanted in asked]
    slow.close()
    speculation = Speculation(PromptLookup(), 4, adaptive=False)
    options = EngineOptions(max_seqs=8, prefill_chunk=16, max_queue=300)
    fast = make_engine(served, options, speculation)
    answers = [submit(fast, wanted, forks=True) for wanted in asked]
    for names, expected_of, found in zip(PAIRS, expected, answers, strict=True):
        assert [each.result(fast) for each in found] == expected_of, names
    stats = fast.stats()
    fast.close()
    assert stats.prefix_hit_tokens > 0
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert (stats.running, stats.waiting) == (0, 0)
