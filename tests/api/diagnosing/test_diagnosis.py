"""Every check says ok, warn or fail of facts made up for it, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mistralrs_onnx.diagnosing.diagnosis import (
    CHECKS,
    Check,
    check_answer,
    check_cache,
    check_cuda,
    check_dependencies,
    check_hub,
    check_kernels,
    check_memory,
    check_native,
    check_packages,
    check_port,
    check_processor,
    check_processors,
    check_python,
    check_runtime,
    check_terminal,
    check_token,
    check_variables,
    check_wheels,
    diagnose,
)
from mistralrs_onnx.diagnosing.facts import (
    Answer,
    Cached,
    Dependency,
    Disk,
    Facts,
    Hub,
    Kernels,
    Memory,
    Processor,
    Processors,
    Runtime,
    Token,
)
from mistralrs_onnx.diagnosing.kernel_probe import Probed
from mistralrs_onnx.runtime.cuda import Problem

GiB = 1 << 30
SAME = Probed("dense", is_invariant=True, row_multiple=1)
ROOMY = Disk(Path("/cache"), is_writable=True, free=50 * GiB)
GOOD = Facts(
    python="3.12.1",
    requires_python="3.11",
    dependencies=(Dependency("click", "8.2", "8.2.1"), Dependency("numpy", "2.1", "2.10")),
    runtime=Runtime({"onnxruntime": "1.32.0"}, ("CPUExecutionProvider",)),
    processor=Processor("Fast", "x86_64", frozenset({"avx2", "avx512bw", "avx512_vnni"})),
    processors=Processors(8, 8, None),
    memory=Memory(16 * GiB, 8 * GiB, None),
    cache=ROOMY,
    cached=Cached(2, 3 * GiB),
    hub=Hub("https://hub", ROOMY, is_offline=False),
    token=Token("cache", is_found=True),
    answer=None,
    variables=("MISTRALRS_CACHE",),
    known=frozenset({"MISTRALRS_CACHE", "MISTRALRS_PORT"}),
    encoding="utf-8",
    port=1234,
    port_problem="",
    native_problem=None,
    kernels=Kernels((SAME, SAME._replace(kind="4 bits")), 0.8),
)


def test_a_good_machine_has_nothing_to_mend() -> None:
    checks = diagnose(GOOD)
    assert len(checks) == len(CHECKS) == len({check.name for check in checks})
    assert {(check.status, check.remedy) for check in checks} == {("ok", "")}


def test_the_hub_is_judged_only_when_it_was_asked() -> None:
    asked = diagnose(replace(GOOD, answer=Answer(200)))[-1]
    assert asked == Check("hub answer", "ok", "https://hub answers and knows the token")


BOTH = Runtime({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}, problem="overwrite each other")
OLD = Runtime({"onnxruntime": "1.20"}, problem="too old")
GPU_ALONE = Runtime({"onnxruntime-gpu": "1.32.0"}, ("CUDAExecutionProvider",))
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
GPU = Runtime({"onnxruntime-gpu": "1.31.1"}, PROVIDERS, is_for_cpu=False)
NO_DRIVER = Problem("the NVIDIA driver is missing", "install it")
UNREADABLE = Token("env:X", is_found=False, problem="no X")
ANONYMOUS = Token("none", is_found=False)
NO_ROOM = ROOMY._replace(free=GiB)
SEALED = ROOMY._replace(is_writable=False)


def x86(*features: str) -> Processor:
    return Processor("Some", "x86_64", frozenset(features))


def arm(*features: str) -> Processor:
    return Processor("Some", "aarch64", frozenset(features))


VNNI = x86("avx512bw", "avx512dq", "avx512vl", "avx512_vnni")


@pytest.mark.parametrize(
    ("check", "change", "status", "text", "remedy"),
    [
        (check_python, {"python": "3.10.9"}, "fail", "3.10.9", "install Python 3.11 or newer"),
        (check_wheels, {"runtime": BOTH}, "fail", "break each other", "-y onnxruntime onnxruntime-gpu, then"),
        (check_wheels, {"runtime": Runtime({})}, "ok", "no build", ""),
        (check_runtime, {"runtime": BOTH}, "fail", "two builds", "first mend the wheels"),
        (check_runtime, {"runtime": Runtime({})}, "fail", "not installed", "pip install 'mistralrs-onnx[cpu]'"),
        (check_runtime, {"runtime": OLD}, "fail", "too old", "--force-reinstall"),
        (check_runtime, {"runtime": GPU}, "ok", "they run with --device cuda", ""),
        (check_cuda, {}, "ok", "not in this build; --device cuda needs onnxruntime-gpu", ""),
        (check_cuda, {"runtime": GPU}, "ok", "models run on it with --device cuda", ""),
        (check_cuda, {"runtime": GPU._replace(cuda=NO_DRIVER)}, "fail", "the NVIDIA driver is missing", "install it"),
        (check_cuda, {"runtime": GPU._replace(cuda=NO_DRIVER, is_for_cpu=True)}, "warn", "driver", "install it"),
        (check_kernels, {"runtime": GPU}, "ok", "of the processor only", ""),
        (check_runtime, {"runtime": GPU_ALONE}, "fail", "none for the processor", "pip install"),
        (check_dependencies, {"dependencies": (Dependency("a", "2", None),)}, "fail", "a missing (needs 2)", "'a>=2'"),
        (check_dependencies, {"dependencies": (Dependency("a", "1.10", "1.9"),)}, "fail", "a 1.9", "'a>=1.10'"),
        (check_dependencies, {"dependencies": (Dependency("a", "1.10", "1.10.0rc1"),)}, "ok", "all 1", ""),
        (check_processor, {"processor": x86("avx2", "avx512bw", "avx512_vnni", "amx_int8")}, "ok", "its AMX, too", ""),
        (check_processor, {"processor": x86("avx2", "avx512bw")}, "ok", "AVX-512 without VNNI", ""),
        (check_processor, {"processor": x86("avx2", "avx_vnni")}, "ok", "AVX2 with VNNI", ""),
        (check_processor, {"processor": x86("avx2")}, "ok", "AVX2 without VNNI", ""),
        (check_processor, {"processor": x86("sse4_2")}, "warn", "no AVX2", "slow"),
        (check_processor, {"processor": x86()}, "ok", "not told", ""),
        (check_processor, {"processor": arm("asimddp", "i8mm")}, "ok", "int8 and i8mm", ""),
        (check_processor, {"processor": arm("asimd")}, "warn", "no dot products", "slow"),
        (check_processor, {"processor": arm()}, "ok", "not told", ""),
        (check_native, {"native_problem": "odd", "processor": VNNI}, "warn", "slower than our own kernels: odd", "g++"),
        (check_native, {"native_problem": "odd", "processor": x86("avx2")}, "ok", "our own need AVX-512 VNNI", ""),
        (check_native, {"native_problem": "odd", "processor": arm("asimddp")}, "ok", "need AVX-512 VNNI", ""),
        (check_processors, {"processors": Processors(8, 2, None)}, "ok", "2 of 8 may be used", ""),
        (check_processors, {"processors": Processors(8, 8, 8.0)}, "ok", "8, all", ""),
        (check_processors, {"processors": Processors(8, 8, 2.5)}, "warn", "the time of 2.5", "--threads 2"),
        (check_processors, {"processors": Processors(8, 8, 0.5)}, "warn", "the time of 0.5", "--threads 1"),
        (check_memory, {"memory": Memory(16 * GiB, GiB // 2, GiB)}, "warn", "may take 1.00 GiB", "smallest models"),
        (check_memory, {"memory": Memory(16 * GiB, GiB // 8, None)}, "fail", "128.0 MiB available", "no model fits"),
        (check_cache, {"cache": NO_ROOM}, "warn", "/cache, 1.00 GiB free", "set MISTRALRS_CACHE"),
        (check_cache, {"cache": SEALED}, "fail", "cannot be written", "MISTRALRS_CACHE"),
        (check_packages, {"cached": Cached(1, 5, 2, 7)}, "warn", "2 folders of broken compiles", "cache list"),
        (check_hub, {"hub": Hub("", ROOMY, is_offline=False, problem="odd")}, "fail", "odd", "HF_ENDPOINT"),
        (check_hub, {"hub": Hub("https://hub", ROOMY, is_offline=True)}, "ok", "HF_HUB_OFFLINE", "unset"),
        (check_hub, {"hub": Hub("https://hub", SEALED, is_offline=False)}, "warn", "cannot be written", "HF_HOME"),
        (check_hub, {"hub": Hub("https://hub", NO_ROOM, is_offline=False)}, "warn", "https://hub, kept in", "HF_HOME"),
        (check_token, {"token": Token("cache", is_found=False)}, "ok", "none (cache)", "HF_TOKEN"),
        (check_token, {"token": UNREADABLE}, "fail", "no X", "--token-source"),
        (check_variables, {"variables": ()}, "ok", "no MISTRALRS_", ""),
        (check_variables, {"variables": ("MISTRALRS_PROT",)}, "warn", "reads MISTRALRS_PROT", "MISTRALRS_PORT"),
        (check_variables, {"variables": ("MISTRALRS_XYZZY42",)}, "warn", "nobody reads", "unset MISTRALRS_XYZZY42"),
        (check_terminal, {"encoding": "UTF8"}, "ok", "UTF-8", ""),
        (check_terminal, {"encoding": "latin-1"}, "warn", "latin-1", "PYTHONUTF8"),
        (check_port, {"port_problem": "in use"}, "warn", "1234 cannot be had: in use", "--port"),
        (check_kernels, {"kernels": Kernels((), 0, "broken")}, "fail", "broken", "above"),
        (check_kernels, {"runtime": OLD}, "fail", "not probed without", "above"),
        (check_kernels, {"kernels": Kernels((SAME._replace(is_invariant=False),), 1)}, "warn", "(dense)", "--max-seqs"),
        (check_kernels, {"kernels": Kernels((SAME._replace(row_multiple=2),), 1)}, "ok", "pairs for that (dense)", ""),
        (check_answer, {"answer": Answer(None, "no route")}, "fail", "cannot be reached: no route", "proxies"),
        (check_answer, {"answer": Answer(401)}, "fail", "refuses the token", "hf auth login"),
        (check_answer, {"answer": Answer(503)}, "warn", "status 503", "later"),
        (check_answer, {"answer": Answer(200), "token": ANONYMOUS}, "ok", "https://hub answers", ""),
        (check_answer, {"token": UNREADABLE}, "fail", "not asked", "its token"),
    ],
)  # fmt: skip
def test_a_check(check: Callable[[Facts], Check], change: dict[str, Any], status: str, text: str, remedy: str) -> None:
    found = check(replace(GOOD, **change))
    assert found.status == status
    assert text in found.text
    assert remedy in found.remedy
    assert bool(found.remedy) or status == "ok"


def test_no_token_is_ever_shown() -> None:
    token = replace(GOOD, token=Token("literal:...", is_found=True))
    assert check_token(token).text == "found (literal:...)"
