"""The real model behind its engine: the same bits alone, in company, cached, preempted, and text that makes sense."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Semaphore

import numpy as np
import pytest

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.core import Logits, Row
from mistralrs_onnx.runtime.engine import Engine, EngineOptions, Output
from mistralrs_onnx.runtime.errors import PackageError, RequestError
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.probe import NEEDED
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.speculate import SpeculateOptions

RNG = np.random.default_rng(0)
LENGTHS = [129, 257, 3, 40, 77, 128, 64, 5, 200, 31, 90, 12, 150, 8, 61, 100]
PROMPTS = [RNG.integers(5, 40000, length).tolist() for length in LENGTHS]
PARAMS = [
    SamplingParams(max_tokens=12, temperature=0.0 if i % 2 else 1.0, seed=i, ignore_eos=True)
    for i in range(len(PROMPTS))
]


class Recorder:
    """A runner that writes down a digest of the logits after each history of tokens, and counts repeated histories."""

    def __init__(self, runner: OrtRunner, seen: dict[bytes, bytes]) -> None:
        self._runner = runner
        self._seen = seen
        self._held: dict[int, list[int]] = {}
        self.num_slots, self.capacity = runner.num_slots, runner.capacity
        self.vocab_size, self.token_bytes = runner.vocab_size, runner.token_bytes
        self.rope_switch, self.tgt_non_granular_index = runner.rope_switch, runner.tgt_non_granular_index
        self.num_compared = 0

    def run(self, rows: Sequence[Row]) -> Logits:
        logits = self._runner.run(rows)
        done = 0
        for row in rows:
            self._held[row.slot] = [*self._held.get(row.slot, [])[: row.start], *row.token_ids]
            for i in range(row.num_logits):
                length = row.start + len(row.token_ids) - row.num_logits + i + 1
                self._write_down(self._held[row.slot][:length], logits[done])
                done += 1
        return logits

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        self._held[target] = self._held[source][:num_tokens]
        self._runner.copy(source, target, num_tokens)

    def free(self, slot: int, keep: int = 0) -> None:
        self._held[slot] = self._held.get(slot, [])[:keep]
        self._runner.free(slot, keep)

    def _write_down(self, history: list[int], logits: Logits) -> None:
        key, value = (hashlib.sha256(np.ascontiguousarray(a)).digest() for a in (np.array(history), logits))
        self.num_compared += key in self._seen
        assert self._seen.setdefault(key, value) == value, f"other logits after {len(history)} tokens"


class Recorded:
    """Engines over the real model whose logits are all held against each other."""

    def __init__(self, package: Package, make_runner: Callable[..., OrtRunner]) -> None:
        self._package = package
        self._make_runner = make_runner
        self.seen: dict[bytes, bytes] = {}

    def __call__(self, options: EngineOptions) -> tuple[Engine, Recorder]:
        runner = Recorder(self._make_runner(num_slots=2 * options.max_seqs), self.seen)
        engine = Engine(runner, self._package.tokenizer(), frozenset({2}), 1024, options)
        engine.start()
        return engine, runner


@pytest.fixture(scope="module")
def recorded(smollm2: Package, smollm2_runner: Callable[..., OrtRunner]) -> Recorded:
    return Recorded(smollm2, smollm2_runner)


def generate(engine: Engine, prompts: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[list[int]]:
    """Token ids of all answers; the requests run together."""
    answers: list[list[int]] = [[] for _ in prompts]
    left = Semaphore(0)

    def sink_of(answer: list[int]) -> Callable[[Output], None]:
        def sink(output: Output) -> None:
            answer.extend(output.token_ids)
            if output.finish_reason is not None:
                assert output.finish_reason == "length", output
                left.release()

        return sink

    for prompt, param, answer in zip(prompts, params, answers, strict=True):
        engine.submit(prompt, param, sink_of(answer))
    for _ in prompts:
        assert left.acquire(timeout=120)
    return answers


@pytest.fixture(scope="module")
def alone(recorded: Recorded) -> list[list[int]]:
    engine, _ = recorded(EngineOptions(max_seqs=1, prefix_cache=False))
    answers = [generate(engine, [prompt], [param])[0] for prompt, param in zip(PROMPTS, PARAMS, strict=True)]
    engine.close()
    return answers


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(),
        pytest.param(EngineOptions(prefill_chunk=33), marks=pytest.mark.full),
        EngineOptions(max_seqs=5, prefix_cache=False),
    ],
    ids=["together", "small chunks", "five at a time, no prefix cache"],
)
def test_requests_in_company_are_as_alone_bit_for_bit(
    recorded: Recorded, alone: list[list[int]], options: EngineOptions
) -> None:
    engine, runner = recorded(options)
    assert generate(engine, PROMPTS, PARAMS) == alone
    assert runner.num_compared >= 12 * len(PROMPTS)
    engine.close()


@pytest.mark.full  # rows that are read again are tested in tests/runtime
def test_preempted_requests_are_as_alone_bit_for_bit(recorded: Recorded, alone: list[list[int]]) -> None:
    options = EngineOptions(kv_mem=1024 * 46080 * 11 // 10)
    engine, runner = recorded(options)
    assert generate(engine, PROMPTS, PARAMS) == alone
    params = [SamplingParams(max_tokens=80, temperature=0, ignore_eos=True)] * 6
    long = generate(engine, PROMPTS[:6], params)
    assert engine.stats().preemptions > 0
    assert [answer[:12] for answer in long[1::2]] == alone[1:6:2]
    assert runner.num_compared > 12 * len(PROMPTS)
    engine.close()


def test_a_cached_prefix_changes_no_bit(recorded: Recorded, alone: list[list[int]]) -> None:
    """A second turn continues the slot of the first; a third shares half of it from a copy."""
    engine, _ = recorded(EngineOptions(max_seqs=2))
    generate(engine, PROMPTS[:1], PARAMS[:1])
    before = engine.stats().prefix_hit_tokens
    assert generate(engine, PROMPTS[:1], PARAMS[:1]) == alone[:1]
    assert engine.stats().prefix_hit_tokens - before == len(PROMPTS[0]) - 1
    turn, branch = PROMPTS[0] + alone[0] + PROMPTS[2], PROMPTS[0][:50] + PROMPTS[4]
    cached = generate(engine, [turn, branch], [PARAMS[1]] * 2)
    assert engine.stats().prefix_hit_tokens - before > 2 * len(PROMPTS[0])
    engine.close()
    fresh, _ = recorded(EngineOptions(max_seqs=2, prefix_cache=False))
    assert generate(fresh, [turn, branch], [PARAMS[1]] * 2) == cached
    fresh.close()


@pytest.fixture(scope="module")
def model(smollm2: Package) -> Iterator[Model]:
    with load(smollm2.path, LoadOptions(EngineOptions(max_seqs=4), verify=True)) as loaded:
        yield loaded


def test_a_chat_answers_and_stops_by_itself(model: Model) -> None:
    ids = model.encode_chat([{"role": "user", "content": "Say hello."}])
    outputs = list(model.engine.generate(ids, SamplingParams(max_tokens=100, temperature=0)))
    text = "".join(output.text for output in outputs)
    assert outputs[-1].finish_reason == "stop"
    assert text.startswith("Hello")
    assert "<|im_end|>" not in text


@pytest.fixture(scope="module")
def tiny(tiny_llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return compile_gguf(tiny_llama(folder / "tiny.gguf").write(), folder / "tiny")


def test_a_model_without_template_says_what_to_do(tiny: Path) -> None:
    with load(tiny) as loaded, pytest.raises(RequestError, match="no chat template"):
        loaded.encode_chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("draft", [None, "lookup", "tiny"])
def test_without_a_kv_cache_tokens_are_the_same(tiny: Path, draft: str | None) -> None:
    speculate = None if draft is None else SpeculateOptions(tiny if draft == "tiny" else "lookup", 4, adaptive=False)
    prompts = [list(range(n, n + 20)) for n in range(3)]
    found = []
    for kv_cache in (True, False):
        options = LoadOptions(EngineOptions(max_seqs=2, kv_cache=kv_cache), speculate=speculate)
        with load(tiny, options) as loaded:
            found.append(generate(loaded.engine, prompts, PARAMS[:3]))
            assert (loaded.engine.stats().kv_bytes > 0) == kv_cache
    assert found[0] == found[1]


def test_more_conversations_are_kept_than_requests_run(tiny: Path) -> None:
    prompts = [[i] * 20 for i in range(5)]
    with load(tiny, LoadOptions(EngineOptions(max_seqs=1, prefix_cache_n=4))) as loaded:
        for prompt in prompts:
            generate(loaded.engine, [prompt], PARAMS[:1])
        for prompt in prompts[1:]:
            generate(loaded.engine, [prompt], PARAMS[:1])
        assert loaded.engine.stats().prefix_hit_tokens == 4 * 19


def test_a_model_that_was_told_to_cuts_long_prompts(tiny: Path) -> None:
    with load(tiny, LoadOptions(EngineOptions(truncate_sequence=True, max_model_len=64))) as loaded:
        assert loaded.truncate_sequence
        params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
        long, short = (list(loaded.engine.generate(list(range(n, 80)), params)) for n in (0, 20))
        assert long[-1].usage.prompt_tokens == short[-1].usage.prompt_tokens == 60
        assert [output.token_ids for output in long] == [output.token_ids for output in short]
    with load(tiny) as loaded:
        assert not loaded.truncate_sequence


def test_requests_that_do_not_say_look_back_as_far_as_the_model_was_told(tiny: Path) -> None:
    with load(tiny) as loaded:
        assert "repeat_last_n" not in loaded.defaults
    with load(tiny, LoadOptions(repeat_last_n=7)) as loaded:
        assert loaded.defaults["repeat_last_n"] == 7
    with pytest.raises(PackageError, match="repeat_last_n must be"):
        load(tiny, LoadOptions(repeat_last_n=-1))


@pytest.mark.parametrize("length", [8, NEEDED - 1, NEEDED, 64])
def test_short_contexts_load_and_say_what_was_not_checked(
    smollm2: Package, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    with load(smollm2.path, LoadOptions(EngineOptions(max_model_len=length))) as loaded:
        assert loaded.context_length == length
    said = [record.getMessage() for record in caplog.records if "too short" in record.getMessage()]
    expected = f"a context of {length} tokens is too short to check invariance on this machine: allow {NEEDED} or more"
    assert said == ([] if length >= NEEDED else [expected])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(max_model_len=9000), "exceeds the model's context of 8192"),
        (EngineOptions(prefill_chunk=4096), "may have up to 2048 tokens, got 4096"),
        (EngineOptions(kv_mem=1 << 20), "kv_mem"),
    ],
)
def test_options_that_cannot_be_are_refused(smollm2: Package, options: EngineOptions, message: str) -> None:
    with pytest.raises(PackageError, match=message):
        load(smollm2.path, LoadOptions(options))
