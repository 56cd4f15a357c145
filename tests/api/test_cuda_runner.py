"""Models on CUDA as far as the processor can tell: everything but the provider, whose place it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_packages import tiny_package

from mistralrs_onnx import LLM, EngineOptions, LoadOptions, SamplingParams, runners
from mistralrs_onnx.adapters import AdapterOptions
from mistralrs_onnx.cuda_runner import check_cuda_options, make_cuda_runner, slot_length
from mistralrs_onnx.graphs.contract import AdapterRecord, XLoraRecord
from mistralrs_onnx.model import load
from mistralrs_onnx.runtime import sessions
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.device_pool import DevicePool
from mistralrs_onnx.runtime.devices import CPU, Device
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.uniform_runner import UniformRunner
from mistralrs_onnx.speculate import SpeculateOptions

PROMPTS = ["a", "hello world", "to be or not to be", "x" * 100, "the sea", "hello world, again"]
GREEDY = SamplingParams(temperature=0, max_tokens=24)
CUDA = LoadOptions(EngineOptions(max_seqs=3, prefill_chunk=16), device="cuda", num_threads=1)


@pytest.fixture(scope="module")
def package(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tiny_llama, tmp_path_factory.mktemp("cuda"), accuracy="float32")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[UniformRunner]:
    """The processor is taken for CUDA; runners as they are made."""
    made: list[UniformRunner] = []

    def make(package: Package, options: LoadOptions, device: Device) -> UniformRunner:
        made.append(make_cuda_runner(package, options, CPU))
        return made[-1]

    monkeypatch.setattr(sessions, "cuda_problem", lambda library: None)
    monkeypatch.setattr(runners, "make_cuda_runner", make)
    return made


def texts(package: Path, options: LoadOptions, params: SamplingParams = GREEDY) -> list[list[str]]:
    with LLM(package, options=options) as llm:
        return [[each.text for each in output.outputs] for output in llm.generate(PROMPTS, params)]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "options",
    [
        CUDA,
        replace(CUDA, engine=replace(CUDA.engine, prefix_cache_n=4)),
        replace(CUDA, engine=replace(CUDA.engine, prefix_cache=False, max_seqs=1)),
        replace(CUDA, engine=replace(CUDA.engine, kv_cache=False)),
        replace(CUDA, speculate=SpeculateOptions("lookup", 4)),
    ],
    ids=["plain", "kept", "alone", "no-kv-cache", "lookup"],
)
def test_answers_are_those_of_the_cpu(package: Path, options: LoadOptions) -> None:
    """The likeliest tokens of a random model are far enough apart for float16."""
    assert texts(package, options) == texts(package, LoadOptions(EngineOptions(max_seqs=3)))


@pytest.mark.usefixtures("here")
def test_a_draft_model_is_there_too(package: Path, here: list[UniformRunner]) -> None:
    options = replace(CUDA, speculate=SpeculateOptions(package, 4))
    assert texts(package, options) == texts(package, LoadOptions())
    assert len(here) == 2


@pytest.mark.usefixtures("here")
def test_several_answers_begin_in_one_prompt(package: Path) -> None:
    params = replace(GREEDY, n=3)
    assert texts(package, CUDA, params) == [[text] * 3 for [text] in texts(package, CUDA)]


def test_memory_is_of_the_slots_that_are_asked_for(package: Path, here: list[UniformRunner]) -> None:
    for engine, num_slots, capacity in [
        (EngineOptions(max_seqs=3), 3, 256),
        (EngineOptions(max_seqs=3, prefix_cache_n=2, max_model_len=100), 5, 100),
        (EngineOptions(max_seqs=3, kv_cache=False), 2, 256),
        (EngineOptions(max_seqs=1, kv_mem=256 * 2 * 51), 2, 50),  # 256 bytes a token, and one more than it holds
    ]:
        with LLM(package, options=replace(CUDA, engine=engine)) as llm:
            assert (here[-1].num_slots, here[-1].capacity) == (num_slots, capacity)
            assert llm.model.context_length == capacity


def test_the_length_of_slots() -> None:
    engine = EngineOptions()
    assert slot_length(engine, 4, 10, 100) == 100
    assert slot_length(replace(engine, max_model_len=50), 4, 10, 100) == 50
    assert slot_length(replace(engine, kv_mem=1000), 4, 10, 100) == 24
    assert slot_length(replace(engine, kv_mem=10**6), 4, 10, 100) == 100
    says = r"4 slots of 50 tokens need 0.00 GiB, and --kv-mem allows .* lower --max-model-len, --max-seqs"
    with pytest.raises(PackageError, match=says):
        slot_length(replace(engine, kv_mem=1000, max_model_len=50), 4, 10, 100)
    with pytest.raises(PackageError, match="4 slots of 100 tokens need"):
        slot_length(replace(engine, kv_mem=10), 4, 10, 100)


class Full:
    """A session of a device without memory."""

    def io_binding(self) -> Full:
        return self

    def bind_input(self, *_: Any) -> None:
        pass

    def bind_output(self, *_: Any) -> None:
        pass

    def run_with_iobinding(self, _: Any) -> None:
        raise RuntimeError("Failed to allocate memory")


def test_a_device_without_room_is_named_and_what_to_lower(package: Path) -> None:
    kv = open_package(package).manifest.kv
    full: Any = Full()
    says = (
        r"4 slots of 1000 tokens need 0.0 GiB, which cuda:1 does not have: lower --max-model-len, --max-seqs.*--kv-mem"
    )
    with pytest.raises(PackageError, match=says):
        DevicePool(full, Device("cuda", 1), kv, num_slots=4, capacity=1000)
    with pytest.raises(PackageError, match="more than a buffer of cuda:0 may have: lower"):
        DevicePool(full, Device("cuda"), kv, num_slots=1 << 20, capacity=1000)


def test_the_pool_starts_empty(package: Path, here: list[UniformRunner]) -> None:
    with LLM(package, options=CUDA):
        logits = here[0].run([Row(2, 0, [1, 2, 3], 1)]).copy()
        here[0].run([Row(1, 0, [5, 6, 7, 8], 1)])
        here[0].copy(1, 2, 1)
        here[0].free(2)
        assert (here[0].run([Row(2, 0, [1, 2, 3], 1)]) == logits).all()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"determinism": "fast"}, "determinism 'fast' is of the CPU: leave it out on cuda:0"),
        ({"adapters": AdapterOptions()}, "there are adapters to load, which run on the CPU only: merge them"),
        ({"engine": EngineOptions(prefill_chunk=4096)}, "a prefill chunk may have up to 2048 tokens, got 4096"),
        ({"tgt_non_granular_index": 1}, "has no X-LoRA"),
    ],
)
def test_what_cannot_be_had_there(package: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PackageError, match=says):
        load(package, replace(CUDA, **changes))


def test_packages_that_cannot_be_there(package: Path) -> None:
    opened, device = open_package(package), Device("cuda")
    old, mixing, carrying = (
        replace(opened, manifest=replace(opened.manifest, **changes))
        for changes in (
            {"cuda": None},
            {"cuda": None, "xlora": XLoraRecord({}, ("x",), 1, (1.0,))},
            {"adapters": {"sql": AdapterRecord("adapters/sql.safetensors", None, "1")}},
        )
    )
    with pytest.raises(PackageError, match=r"has no graph for CUDA, it was made before .*compile the model again"):
        old.cuda()
    with pytest.raises(PackageError, match="has no graph for CUDA, X-LoRA runs on the CPU only"):
        mixing.cuda()
    with pytest.raises(PackageError, match="has X-LoRA, which runs on the CPU only: leave out the device cuda:0"):
        check_cuda_options(mixing, CUDA, device)
    with pytest.raises(PackageError, match=r"carries adapters \(sql\), which run on the CPU only: merge them"):
        check_cuda_options(carrying, replace(CUDA, adapters=AdapterOptions()), device)


def test_without_the_provider_it_says_what_to_install(package: Path) -> None:
    with pytest.raises(PackageError, match=r"cuda:0 cannot be used: .*pip install 'onnxruntime-gpu\[cuda,cudnn\]'"):
        LLM(package, device="cuda")
    with pytest.raises(PackageError, match="device must be cpu, cuda or cuda:N, got 'gpu'"):
        LLM(package, device="gpu")
