"""The runner for CUDA, on the processor: every architecture, and every kind of step on the real model.

Logits are held against those of the serving graph in float32.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from golden import read_golden
from tiny_models import IDS, PROMPT, TINY, VOCAB, write_folder
from uniform_runners import serving_runner, uniform_runner

from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder, compile_gguf
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.runtime.core import Logits, Row, Runner
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.probe import check_logits
from mistralrs_onnx.runtime.uniform_runner import UniformRunner

FOLDER = Path(os.environ.get("MISTRALRS_TEST_MODELS") or Path.home() / ".cache" / "mistralrs-onnx-test-models")
TOLERANCE = 5e-3  # of the largest logit: dozens of roundings to eleven bits, each of which moves it by 2e-4


def error(logits: Logits, expected: Logits) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def chunked_and_decoded(runner: Runner) -> Logits:
    """Of the last positions, with an idle slot and a busy one beside them."""
    is_long = runner.rope_switch is not None and len(IDS) > runner.rope_switch
    runner.run([Row(3, 0, IDS[:3], 1), Row(1, 0, IDS[:5], 0, is_long)])
    steps = [[Row(1, 5, IDS[5:PROMPT], 1, is_long), Row(3, 3, [7], 1)]]
    steps += [[Row(1, i, [IDS[i]], 1, is_long), Row(3, i, [7], 1)] for i in range(PROMPT, len(IDS))]
    return np.concatenate([runner.run(step)[:1].copy() for step in steps])


def tiny_package(name: str, folder: Path, isq: str | None = None) -> Package:
    model, options = read_golden()[name].model, CompileOptions(accuracy="float32", isq=Isq(isq))
    return open_package(compile_folder(write_folder(model, folder / "model"), folder / "package", options))


@pytest.mark.parametrize("name", TINY)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    logits = chunked_and_decoded(uniform_runner(tiny_package(name, tmp_path)))
    assert error(logits, read_golden()[name].logits) <= TOLERANCE


@pytest.mark.parametrize("isq", ["int8-32", "Q4_1"])
@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_experts_of_packed_weights(name: str, isq: str, tmp_path: Path) -> None:
    """What their branches fold is seen only when it is packed."""
    package = tiny_package(name, tmp_path, isq)
    expected = chunked_and_decoded(serving_runner(package, num_slots=4, max_model_len=64))
    assert error(chunked_and_decoded(uniform_runner(package)), expected) <= TOLERANCE


TEXT = """The harbour town had three clocks, and no two of them agreed. The one on the church ran slow in winter,
because the keeper believed that cold made time heavier. The one on the customs house ran fast, for merchants like to
leave early; and the third, above the baker's door, had stopped at twenty past four, which made it right twice a day."""
PROMPTS = np.random.default_rng(0).integers(2, VOCAB, (4, 60)).tolist()


@pytest.fixture(scope="module", params=["llama", "llama-head-20"])  # heads turn inside of attention, or outside
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(request.param, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runner(package: Package) -> UniformRunner:
    return uniform_runner(package, num_slots=6, max_model_len=80)


@pytest.fixture(scope="module")
def exact(package: Package) -> Runner:
    return serving_runner(package, num_slots=6, max_model_len=80)


@pytest.fixture(autouse=True)
def all_free(request: pytest.FixtureRequest) -> None:
    if "runner" in request.fixturenames:
        for slot in range(6):
            request.getfixturevalue("runner").free(slot)


def check_steps(runner: Runner, exact: Runner, steps: Sequence[Sequence[Row]]) -> None:
    for step in steps:
        expected, logits = exact.run(step).copy(), runner.run(step)
        assert logits.shape == expected.shape
        assert error(logits, expected) <= TOLERANCE if len(expected) else True


def test_chunks_decodes_and_idle_slots_in_one_step(runner: UniformRunner, exact: Runner) -> None:
    a, b, c, d = PROMPTS
    steps = [
        [Row(0, 0, a[:1], 1), Row(2, 0, b[:1], 1)],
        [Row(0, 1, a[1:7], 1), Row(4, 0, b[:20], 0)],
        [Row(2, 0, c[:9], 0), Row(0, 7, a[7:8], 1), Row(4, 20, b[20:31], 2)],  # the chunk is between the decodes
        [Row(4, 31, b[31:32], 1), Row(0, 8, a[8:9], 1)],  # slot 2 is idle between them
        [Row(2, 9, c[9:30], 1), Row(5, 0, d[:1], 1)],
        [Row(5, 1, d[1:2], 1), Row(0, 9, a[9:10], 1), Row(2, 30, c[30:31], 1), Row(4, 32, b[32:33], 0)],
    ]
    check_steps(runner, exact, steps)


def test_guesses_are_verified_and_taken_back(runner: UniformRunner, exact: Runner) -> None:
    a, b, c, _ = PROMPTS
    steps = [
        [Row(1, 0, a[:20], 1), Row(3, 0, b[:20], 1)],
        [Row(1, 20, a[20:26], 6), Row(3, 20, b[20:21], 1)],
        [Row(3, 21, b[21:22], 1)],
        [Row(1, 23, c[:1], 1), Row(3, 22, b[22:23], 1)],  # three of the guesses fell
        [Row(1, 24, c[1:4], 3)],
    ]
    check_steps(runner, exact, steps)


def test_copied_slots_continue_like_the_original(runner: UniformRunner, exact: Runner) -> None:
    a, b, _, _ = PROMPTS
    check_steps(runner, exact, [[Row(0, 0, a[:40], 1)]])
    for each in (runner, exact):
        each.copy(0, 3, 30)
    steps = [[Row(3, 30, b[:1], 1), Row(0, 40, a[40:41], 1)], [Row(3, 31, b[1:9], 1)], [Row(0, 41, a[41:45], 1)]]
    check_steps(runner, exact, steps)


def test_a_full_idle_slot_loses_nothing(runner: UniformRunner, exact: Runner) -> None:
    full = (PROMPTS[0] + PROMPTS[1])[:79]
    steps = [
        [Row(1, 0, full, 1), Row(0, 0, [5], 1), Row(2, 0, [6], 1)],
        [Row(1, 79, [9], 1)],
        [Row(0, 1, [5], 1), Row(2, 1, [6], 1)],
        [Row(1, 79, [9], 1)],
    ]
    check_steps(runner, exact, steps)


def test_what_it_tells_of_itself(package: Package, runner: UniformRunner) -> None:
    assert runner.token_bytes == package.manifest.kv.token_bytes(2)
    assert (runner.num_slots, runner.capacity, runner.vocab_size) == (6, 80, VOCAB)
    check_logits(runner)


def log_softmax(logits: Logits) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(package: Package) -> float:
    """Of the next token after each of a text's, from what the serving graph says, in nats."""
    ids = package.tokenizer().encode(TEXT).ids
    runners = (make(package, num_slots=2, max_model_len=len(ids)) for make in (serving_runner, uniform_runner))
    p, q = (log_softmax(each.run([Row(0, 0, ids, len(ids))])) for each in runners)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def test_the_real_model_says_what_it_says_in_float32(smollm2_float32: Package) -> None:
    found = divergence(smollm2_float32)
    print(f"KL divergence {found:.1e}")
    assert found < 1e-4  # rounding activations to eight bits makes 4e-3


@pytest.mark.full
@pytest.mark.parametrize("name", ["gemma-3-270m.Q4_K_M", "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M"])
def test_real_models_whose_activations_are_large(name: str, tmp_path: Path) -> None:
    """Gemma's stream between layers would not fit into float16, Qwen's keys hardly do."""
    path = FOLDER / f"{name}.gguf"
    if not path.is_file():
        pytest.skip(f"needs {path}: set MISTRALRS_TEST_MODELS to a folder that has it")
    found = divergence(open_package(compile_gguf(path, tmp_path / "package", CompileOptions(accuracy="float32"))))
    print(f"KL divergence {found:.1e}")
    assert found < 1e-4  # as above
