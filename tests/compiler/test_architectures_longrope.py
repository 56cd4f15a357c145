"""Phi-3's two sets of positions: a request has one of them throughout, chosen by how long it may become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from golden import read_golden
from tiny_models import VOCAB, write_folder

from mistralrs_onnx.compiler.compile import compile_folder
from mistralrs_onnx.runtime.core import Logits, Row
from mistralrs_onnx.runtime.engine import Engine, EngineOptions
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.sessions import make_session

SWITCH = 12  # tokens of the original context
PROMPT = np.random.default_rng(5).integers(2, VOCAB, 9).tolist()


class Recording:
    """A runner that remembers its rows and their logits."""

    def __init__(self, runner: OrtRunner) -> None:
        self._runner = runner
        self.num_slots, self.capacity = runner.num_slots, runner.capacity
        self.vocab_size, self.token_bytes, self.rope_switch = runner.vocab_size, runner.token_bytes, runner.rope_switch
        self.tgt_non_granular_index = runner.tgt_non_granular_index
        self.rows: list[Row] = []
        self.logits: list[Logits] = []

    def run(self, rows: Sequence[Row]) -> Logits:
        self.rows += rows
        logits = self._runner.run(rows)
        self.logits += list(logits.copy())
        return logits

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        self._runner.copy(source, target, num_tokens)

    def free(self, slot: int, keep: int = 0) -> None:
        self._runner.free(slot, keep)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("longrope")
    model = write_folder(read_golden()["phi3-128k-long"].model, folder / "model")
    return open_package(compile_folder(model, folder / "package"))


@pytest.fixture
def runner(package: Package) -> OrtRunner:
    session = make_session(package.engine("float32"), 1)
    return OrtRunner(session, package.manifest, num_slots=4, max_model_len=128, max_chunk=32)


@pytest.fixture
def recording(runner: OrtRunner) -> Recording:
    return Recording(runner)


@pytest.fixture
def engine(package: Package, recording: Recording) -> Iterator[Engine]:
    engine = Engine(recording, package.tokenizer(), frozenset(), 128, EngineOptions(max_seqs=2))
    engine.start()
    yield engine
    engine.close()


def say(engine: Engine, prompt: list[int], max_tokens: int | None) -> tuple[list[int], int]:
    """The tokens of the answer, and how many of the prompt were in the cache."""
    outputs = list(engine.generate(prompt, SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)))
    usage = outputs[-1].usage
    assert usage is not None
    return [token for output in outputs for token in output.token_ids], usage.cached_tokens


def test_the_manifest_says_where_positions_change(package: Package) -> None:
    assert package.manifest.rope_switch == SWITCH


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "is_long"),
    [(9, 3, False), (9, 4, True), (9, None, False), (12, 1, True), (11, None, False), (12, None, True)],
)
def test_how_long_it_may_become_decides(
    engine: Engine, recording: Recording, num_prompt: int, max_tokens: int | None, is_long: bool
) -> None:
    """Who names no length stays within the original context, unless the prompt fills it."""
    tokens, _ = say(engine, [*PROMPT, *PROMPT][:num_prompt], max_tokens)
    assert {row.is_long for row in recording.rows} == {is_long}
    if not is_long:
        assert num_prompt + len(tokens) <= SWITCH


def test_prefixes_are_shared_only_within_a_kind(engine: Engine) -> None:
    """The keys of short and long positions differ."""
    assert say(engine, PROMPT, 2)[1] == 0
    assert say(engine, PROMPT, 2)[1] == len(PROMPT) - 1
    assert say(engine, PROMPT, 20)[1] == 0
    assert say(engine, PROMPT, 20)[1] == len(PROMPT) - 1
    assert say(engine, PROMPT, 2)[1] == len(PROMPT) - 1


def test_cached_answers_are_those_of_a_fresh_start(engine: Engine, recording: Recording) -> None:
    answers = [say(engine, PROMPT, count)[0] for count in (3, 20, 3, 20)]
    assert answers[2:] == answers[:2]
    firsts = [logits for row, logits in zip(recording.rows, recording.logits, strict=True) if row.start < len(PROMPT)]
    np.testing.assert_array_equal(firsts[2], firsts[0])
    np.testing.assert_array_equal(firsts[3], firsts[1])
    assert not np.array_equal(firsts[0], firsts[1])


def test_long_and_short_decode_side_by_side_as_alone(runner: OrtRunner) -> None:
    """Decodes after the first reuse what is bound: each row keeps its table."""
    kinds = [False, True, True]
    alone = [[] for _ in kinds]
    for slot, is_long in enumerate(kinds):
        runner.run([Row(slot, 0, PROMPT, 1, is_long)])
        for position in range(9, 12):
            alone[slot].append(runner.run([Row(slot, position, [5 + position], 1, is_long)])[0].copy())
    for position in range(9, 12):
        rows = [Row(slot, position, [5 + position], 1, is_long) for slot, is_long in enumerate(kinds)]
        for slot, logits in enumerate(runner.run(rows)):
            np.testing.assert_array_equal(logits, alone[slot][position - 9])
    assert not np.array_equal(alone[0], alone[1])
    np.testing.assert_array_equal(alone[1], alone[2])


def test_a_slot_that_changes_its_kind_is_bound_anew(runner: OrtRunner) -> None:
    """The same slot and position, decoded by the other table, has other logits; by its own again, the same."""
    logits = []
    for is_long in (True, False, True):
        runner.run([Row(0, 0, PROMPT, 1, is_long)])
        logits.append([runner.run([Row(0, 9 + i, [7], 1, is_long)])[0].copy() for i in range(2)])
    np.testing.assert_array_equal(logits[0], logits[2])
    assert not np.array_equal(logits[0], logits[1])
