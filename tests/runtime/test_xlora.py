"""X-LoRA while it is served: what known scalings mean, company, cached prompts, and scalings that no longer change."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import read_golden
from tiny_models import IDS, PROMPT, TOLERANCE, write_folder
from tiny_xlora import TinyXLora, write_xlora
from xlora_serving import answers, compile_xlora, llama_modules, worst, xlora_runner

from mistralrs_onnx.compiler.adapters.files import in_folder
from mistralrs_onnx.compiler.adapters.merge import ToMerge
from mistralrs_onnx.compiler.adapters.xlora import ToMix
from mistralrs_onnx.compiler.checkpoint import Reading, open_folder
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.compiler.dry_run import dry_run
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.engine import Engine, EngineOptions, Output
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.probe import check_logits, is_invariant
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.runtime.sessions import make_session

MODEL = read_golden()["llama"].model
MODULES = llama_modules(MODEL.config)
HIDDEN = MODEL.config["hidden_size"]
NUM_SETS = len(MODULES)


def write(folder: Path, **config: Any) -> TinyXLora:
    return write_xlora(folder / "xlora", MODULES, HIDDEN, **{"layerwise_scalings": True, **config})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(MODEL, tmp_path_factory.mktemp("xlora") / "base")


@pytest.fixture(scope="module")
def package(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Layerwise, of two linears in the classifier, int8 activations."""
    folder = tmp_path_factory.mktemp("xlora-package")
    xlora = write(folder, xlora_depth=2, enable_relu_and_dropout=True)
    mix = ToMix(xlora.folder, xlora.ordering)
    return compile_xlora(base, mix, folder / "package", accuracy="int8", isq=Isq("int4-32"))


def always(scalings: list[float], folder: Path, base: Path) -> Package:
    """A classifier that gives each token these scalings."""
    bias = np.tile(np.array(scalings, np.float32), NUM_SETS)
    linears = [(np.zeros((len(bias), HIDDEN), np.float32), bias)]
    xlora = write(folder, linears=linears, enable_softmax=False)
    return compile_xlora(base, ToMix(xlora.folder, xlora.ordering), folder / "package")


def plain_answers(folder: Path, out: Path, *adapters: ToMerge) -> np.ndarray:
    package = open_package(compile_folder(folder, out, CompileOptions(accuracy="float32", adapters=adapters)))
    session = make_session(package.engine("float32"), 2)
    runner = OrtRunner(session, package.manifest, num_slots=2, max_model_len=64, max_chunk=32)
    rows = [Row(0, 0, IDS[:PROMPT], 1), *(Row(0, i, [IDS[i]], 1) for i in range(PROMPT, len(IDS)))]
    return np.stack([runner.run([row])[0].copy() for row in rows])


def test_a_scaling_of_one_is_that_adapter_alone(base: Path, tmp_path: Path) -> None:
    package = always([0, 1, 0], tmp_path, base)
    merged = plain_answers(base, tmp_path / "merged", ToMerge(in_folder(tmp_path / "xlora" / "second")))
    assert worst(merged, plain_answers(base, tmp_path / "base")) > 100 * TOLERANCE
    assert worst(answers(xlora_runner(package)), merged) < TOLERANCE


def test_scalings_of_zero_are_the_base(base: Path, tmp_path: Path) -> None:
    package = always([0, 0, 0], tmp_path, base)
    assert worst(answers(xlora_runner(package)), plain_answers(base, tmp_path / "base")) < TOLERANCE


@pytest.mark.parametrize("index", [len(IDS) - PROMPT, 1000])
def test_scalings_that_change_until_the_end_are_granular(package: Package, index: int) -> None:
    granular = answers(xlora_runner(package))
    found = answers(xlora_runner(package, index), last_granular=PROMPT + index - 1)
    np.testing.assert_array_equal(found, granular)
    assert not np.array_equal(answers(xlora_runner(package, 1), last_granular=PROMPT), granular)


def test_it_is_sane_and_invariant(package: Package) -> None:
    runner = xlora_runner(package)
    check_logits(runner)
    assert package.manifest.invariant == "yes"
    assert is_invariant(runner)


@pytest.mark.parametrize("last", [None, PROMPT, PROMPT + 2])
def test_company_and_pieces_change_no_bit(package: Package, last: int | None) -> None:
    """Prompts in pieces and decodes in one step, and again after preemption: the whole history in pieces."""
    runner = xlora_runner(package, None if last is None else 1)
    alone = answers(runner, last_granular=last)
    others = [Row(slot, 0, IDS[slot : slot + 5], 1, last_granular=4) for slot in (2, 3)]
    for start, stop in ((0, 4), (4, 5), (5, PROMPT)):
        logits = runner.run([*others, Row(1, start, IDS[start:stop], 1, last_granular=last)])[2].copy()
    np.testing.assert_array_equal(logits, alone[0])
    for i in range(PROMPT, len(IDS)):
        beside = [Row(slot, 5 + i - PROMPT, [IDS[i]], 1, last_granular=4) for slot in (2, 3)]
        logits = runner.run([Row(1, i, [IDS[i]], 1, last_granular=last), *beside])[0].copy()
        np.testing.assert_array_equal(logits, alone[1 + i - PROMPT])
    for start, stop in ((0, PROMPT - 1), (PROMPT - 1, len(IDS))):
        logits = runner.run([Row(4, start, IDS[start:stop], 1, last_granular=last)])[0].copy()
    np.testing.assert_array_equal(logits, alone[-1])


@pytest.mark.parametrize("index", [None, 2])
def test_company_and_cached_prompts_change_no_token(package: Package, index: int | None) -> None:
    prompts = [IDS[:n] for n in (5, 9, 13, 17)]
    prompts += [prompt + IDS[:3] for prompt in prompts]

    def outputs(**options: Any) -> tuple[list[list[int]], int]:
        runner = xlora_runner(package, index)
        engine = Engine(runner, package.tokenizer(), frozenset(), 64, EngineOptions(max_model_len=64, **options))
        engine.start()
        try:
            answered = all_at_once(engine, prompts)
            # Conversations go on: prompt, answer and more, of which the cache may know only what all share.
            longer = [prompt + answer + IDS[:4] for prompt, answer in zip(prompts, answered, strict=True)]
            return answered + all_at_once(engine, longer), engine.stats().prefix_hit_tokens
        finally:
            engine.close()

    alone, hits = outputs(max_seqs=1, prefix_cache=False)
    assert hits == 0
    together, hits = outputs(max_seqs=4, prefill_chunk=7)
    assert hits > len(prompts)
    assert together == alone
    assert outputs(max_seqs=4, prefill_chunk=7, kv_cache=False) == (alone, 0)


def all_at_once(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
    boxes: list[queue.SimpleQueue[Output]] = [queue.SimpleQueue() for _ in prompts]
    for prompt, box in zip(prompts, boxes, strict=True):
        engine.submit(prompt, params, box.put)
    return [tokens_of(box) for box in boxes]


def tokens_of(box: queue.SimpleQueue[Output]) -> list[int]:
    ids: list[int] = []
    while True:
        output = box.get(timeout=60)
        ids += output.token_ids
        if output.finish_reason is not None:
            assert output.finish_reason == "length"
            return ids


def test_a_dry_run_counts_adapters_and_both_caches(base: Path, tmp_path: Path) -> None:
    xlora = write(tmp_path)
    with open_folder(base, Reading()) as checkpoint:
        plain = dry_run(checkpoint, CompileOptions(), 1 << 30)
        mixed = dry_run(checkpoint, CompileOptions(xlora=ToMix(xlora.folder, xlora.ordering)), 1 << 30)
    assert (mixed.kv_float32, mixed.kv_float16) == (2 * plain.kv_float32, 2 * plain.kv_float16)
    added = {plan.name: plan.shape for plan in mixed.tensors}
    for name in {plan.name for plan in plain.tensors}:
        del added[name]
    ranks = sum(xlora.ranks)
    assert added["model.layers.0.self_attn.q_proj.lora_A.weight"] == (ranks, HIDDEN)
    assert len([name for name in added if name.endswith("lora_B.weight")]) == NUM_SETS
    assert added["xlora.classifier.0.weight"] == (3 * NUM_SETS, HIDDEN)
    assert mixed.runtime_memory > plain.runtime_memory
