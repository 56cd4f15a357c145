"""Requests with adapters through the engine: tokens are those that they get alone, whatever is cached or loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
from golden import read_golden
from served_lora import Served, four_adapters, overflowing
from tiny_lora import make_adapter
from tiny_models import VOCAB, write_folder

from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.runtime.adapter_registry import AdapterRegistry, Part
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.engine import Engine, EngineOptions, Output
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.sampling import SamplingParams

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
IDS = [i * 37 % (VOCAB - 2) + 2 for i in range(60)]


class Answer:
    """A sink that keeps what comes; `at_first` is called with the first output, on the engine's thread."""

    def __init__(self, at_first: Callable[[], None] = lambda: None) -> None:
        self._outputs: list[Output] = []
        self._ended = threading.Event()
        self._at_first = at_first

    def __call__(self, output: Output) -> None:
        self._outputs.append(output)
        if len(self._outputs) == 1:
            self._at_first()
        if output.finish_reason is not None:
            self._ended.set()

    @property
    def last(self) -> Output:
        assert self._ended.wait(60)
        return self._outputs[-1]

    @property
    def tokens(self) -> list[int]:
        assert self.last.error is None
        return [token for output in self._outputs for token in output.token_ids]

    @property
    def cached(self) -> int:
        return self.last.usage.cached_tokens


class Wanted(NamedTuple):
    ids: list[int]
    params: SamplingParams
    adapter: Adapter | None


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("engine")
    model = write_folder(read_golden()[request.param].model, folder / "model")
    return Served(open_package(compile_folder(model, folder / "package", CompileOptions(isq=Isq("Q4_0")))))


@pytest.fixture(scope="module")
def adapters(served: Served) -> list[Adapter]:
    return four_adapters(served.groups)


Start = Callable[..., Engine]
MIXED = EngineOptions(max_seqs=6, prefill_chunk=16)
ALONE = EngineOptions(max_seqs=1, prefill_chunk=64, prefix_cache=False)


@pytest.fixture
def start(served: Served) -> Iterator[Start]:
    engines: list[Engine] = []

    def start(options: EngineOptions = MIXED, kv_tokens: int | None = None) -> Engine:
        runner = served.runner(num_slots=2 * options.max_seqs, num_lanes=options.max_seqs)
        if kv_tokens is not None:
            options = replace(options, kv_mem=kv_tokens * runner.token_bytes, max_model_len=kv_tokens // 2)
        engines.append(Engine(runner, served.package.tokenizer(), frozenset(), 128, options))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()
        engine._scheduler.check_integrity()


def ask(engine: Engine, wanted: Wanted) -> Answer:
    answer = Answer()
    engine.submit(wanted.ids, wanted.params, answer, adapter=wanted.adapter)
    return answer


def each_alone(engine: Engine, wanted: Sequence[Wanted]) -> list[list[int]]:
    """One after the other, with nothing cached."""
    return [ask(engine, each).tokens for each in wanted]


def mixed(adapters: Sequence[Adapter]) -> list[Wanted]:
    """Twelve, of which two are the same; prompts share beginnings, and the tokens of some are drawn."""
    owners = [None, *adapters]
    drawn = SamplingParams(max_tokens=12, temperature=1.0, seed=7, ignore_eos=True)
    lengths = [40, 17, 1, 33, 40, 25, 39, 40, 8, 33, 40, 16]
    return [Wanted(IDS[:n], drawn if i % 4 == 3 else GREEDY, owners[i % 5]) for i, n in enumerate(lengths)]


def test_tokens_in_company_are_those_alone(start: Start, adapters: list[Adapter]) -> None:
    """Twice, so that the second time prompts are cached."""
    wanted = mixed(adapters)
    alone = each_alone(start(ALONE), wanted)
    assert len({tuple(tokens) for tokens in alone}) == 11
    engine = start()
    for time in range(2):
        answers = [ask(engine, each) for each in wanted]
        assert [each.tokens for each in answers] == alone
        assert time == 0 or sum(each.cached for each in answers) > 100


def test_preempted_requests_go_on_with_their_adapters(start: Start, adapters: list[Adapter]) -> None:
    long = [each._replace(params=replace(each.params, max_tokens=70)) for each in mixed(adapters)]
    alone = each_alone(start(ALONE), long)
    engine = start(kv_tokens=256)
    answers = [ask(engine, each) for each in long]
    assert [each.tokens for each in answers] == alone
    assert engine.stats().preemptions > 0


def test_a_prompt_is_cached_for_its_adapter_only(start: Start, adapters: list[Adapter]) -> None:
    wanted = [Wanted(IDS[:40], GREEDY, each) for each in (adapters[0], adapters[1], None)]
    alone = each_alone(start(ALONE), wanted)
    engine = start()
    first = [ask(engine, each) for each in wanted]  # all at once
    assert [each.tokens for each in first] == alone
    for each, tokens in zip(wanted, alone, strict=True):
        again = ask(engine, each)
        assert (again.tokens, again.cached) == (tokens, 39)  # the last token of a prompt always runs


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_nobody_uses_what_another_left(start: Start, adapters: list[Adapter], order: tuple[int, ...]) -> None:
    owners = [adapters[0], adapters[3], None]
    engine = start()
    for number in order:
        assert ask(engine, Wanted(IDS[:40], GREEDY, owners[number])).cached == 0
    for number in order:
        assert ask(engine, Wanted(IDS[:40], GREEDY, owners[number])).cached == 39


def test_weights_are_adapters_of_their_own(start: Start, adapters: list[Adapter]) -> None:
    registry = AdapterRegistry()
    registry.add(adapters[0])
    engine = start()
    for _ in range(2):
        found = []
        for weight in (1.0, 0.5, -1.0):
            answer = ask(engine, Wanted(IDS[:30], GREEDY, registry.select([Part("all", weight)])))
            found.append((tuple(answer.tokens), answer.cached))
        tokens, cached = zip(*found, strict=True)
        assert len(set(tokens)) == 3
        assert cached in ((0, 0, 0), (29, 29, 29))
    assert cached == (29, 29, 29)


def test_an_overflow_ends_its_own_request_only(served: Served, start: Start, adapters: list[Adapter]) -> None:
    wanted = mixed(adapters)
    alone = each_alone(start(ALONE), wanted)
    bad = overflowing(served.groups)
    engine = start()
    for _ in range(2):
        answers = [ask(engine, each) for each in (*wanted[:3], Wanted(IDS[:40], GREEDY, bad), *wanted[3:])]
        failed = answers.pop(3).last
        assert failed.finish_reason == "error"
        assert failed.error is not None
        assert (failed.error.status, failed.error.code) == (500, "internal_error")
        assert failed.usage.cached_tokens == 0  # nothing of it was kept
        assert [each.tokens for each in answers] == alone


def test_requests_in_flight_keep_the_adapter_that_was_replaced(
    served: Served, start: Start, adapters: list[Adapter]
) -> None:
    """It is replaced when the first token of each is out; those that come then have the same prompt and the new one."""
    old, new = adapters[0], make_adapter("all", served.groups, 24, 77)
    long = replace(GREEDY, max_tokens=40)
    before, after = each_alone(start(ALONE), [Wanted(IDS[:20], long, each) for each in (old, new)])
    registry = AdapterRegistry()
    registry.add(old)
    engine, late = start(), [Answer() for _ in range(3)]

    def at_first() -> None:
        registry.add(new, replace=True)
        for answer in late:
            engine.submit(IDS[:20], long, answer, adapter=registry.select([Part("all")]))

    early = [Answer(at_first), Answer(), Answer()]
    for answer in early:
        engine.submit(IDS[:20], long, answer, adapter=old)
    assert [each.tokens for each in early] == [before] * 3
    assert [each.tokens for each in late] == [after] * 3
    assert before != after
    again = ask(engine, Wanted(IDS[:20], long, registry.select([Part("all")])))
    assert (again.tokens, again.cached) == (after, 19)


def test_requests_in_flight_keep_the_adapter_that_was_unloaded(start: Start, adapters: list[Adapter]) -> None:
    long = replace(GREEDY, max_tokens=40)
    (alone,) = each_alone(start(ALONE), [Wanted(IDS[:20], long, adapters[0])])
    registry = AdapterRegistry()
    registry.add(adapters[0])
    answer = Answer(lambda: registry.remove("all") and None)
    start().submit(IDS[:20], long, answer, adapter=registry.select([Part("all")]))
    assert answer.tokens == alone
    assert "all" not in registry
