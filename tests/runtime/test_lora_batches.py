"""Twelve requests of four adapters and the base in one batch: each has the bits that it has alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import cycle

import numpy as np
import pytest
from golden import read_golden
from served_lora import Asked, Served, differences, four_adapters, overflowing, run_alone, run_together, twelve_requests
from tiny_lora import make_adapter
from tiny_models import VOCAB, write_folder

from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.graphs.contract import KVDtype
from mistralrs_onnx.runtime.adapters import Adapter, combine
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.lanes import Window
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.runner import OrtRunner

NAMES = ["llama", "mixtral", "phi3-4k"]  # linears one by one, experts, fused linears


class Case:
    """One model, its adapters, and what twelve requests give alone."""

    def __init__(self, package: Package) -> None:
        self.served = Served(package)
        self.adapters: list[Adapter | None] = [None, *four_adapters(self.served.groups)]
        self._alone: dict[KVDtype, list[np.ndarray]] = {}

    def requests(self) -> list[Asked]:
        return twelve_requests(self.adapters, VOCAB)

    def alone(self, kv_dtype: KVDtype = "float32") -> list[np.ndarray]:
        if kv_dtype not in self._alone:
            runner = self.served.runner(kv_dtype=kv_dtype)
            self._alone[kv_dtype] = [run_alone(runner, request) for request in self.requests()]
        return self._alone[kv_dtype]

    @cached_property
    def others(self) -> list[Adapter]:
        """More of them than lanes."""
        return [
            make_adapter(f"other {i}", self.served.groups, rank, 20 + i) for i, rank in enumerate((8, 24, 40, 200) * 3)
        ]


Cases = Callable[[str], Case]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    made: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = write_folder(read_golden()[name].model, folder / "model")
            options = CompileOptions(isq=Isq("Q4_0"))
            made[name] = Case(open_package(compile_folder(model, folder / "package", options)))
        return made[name]

    return case


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, cases: Cases) -> Case:
    return cases(request.param)


def test_it_matters_which_adapter_a_request_has(case: Case) -> None:
    runner, request = case.served.runner(), case.requests()[0]
    logits = [run_alone(runner, Asked(request.ids, request.num_prompt, adapter)) for adapter in case.adapters]
    for i, one in enumerate(logits):
        assert np.isfinite(one).all()
        for other in logits[:i]:
            assert np.abs(one - other).max() > 0.01 * np.abs(one).max()


@pytest.mark.parametrize("kv_dtype", ["float32", "float16"])
def test_one_batch(case: Case, kv_dtype: KVDtype) -> None:
    requests = case.requests()
    run_together(case.served.runner(kv_dtype=kv_dtype), requests)
    assert differences(requests, case.alone(kv_dtype)) == []


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_chunks_beside_decodes(case: Case, chunk: int) -> None:
    requests = case.requests()
    run_together(case.served.runner(), requests, chunk, stagger=1)
    assert differences(requests, case.alone()) == []


@pytest.mark.parametrize("kv_dtype", ["float32", "float16"])
def test_while_others_take_and_leave_lanes(case: Case, kv_dtype: KVDtype) -> None:
    """Twelve adapters of other ranks run in turn, in five lanes in all."""
    requests, turns = case.requests(), cycle(case.others)

    def between(runner: OrtRunner) -> None:
        ids = requests[0].ids
        runner.run([Row(12 + i, 0, ids[: 9 * i + 1], 1, adapter=next(turns)) for i in range(3)])

    run_together(case.served.runner(num_lanes=5, kv_dtype=kv_dtype), requests, 7, stagger=1, between=between)
    assert differences(requests, case.alone(kv_dtype)) == []


def test_others_in_the_same_steps(case: Case) -> None:
    """Ranks of 200 beside them, which lie in wider lanes, and new ones all the time."""
    requests, turns = case.requests(), iter(case.others * 4)
    for request in case.requests()[:4]:
        requests.append(request.again(next(turns)))
    run_together(case.served.runner(num_lanes=8), requests, 7, stagger=1, slots=range(16))
    assert differences(requests[:12], case.alone()) == []


def test_the_base_beside_adapters_is_the_base_without(case: Case) -> None:
    ids = case.requests()[0].ids
    runner = case.served.runner()
    alone = run_alone(runner, Asked(ids, 20, None))
    for adapter in (*case.adapters[1:], case.others[3]):
        beside = [Row(0, 0, ids[:20], 20), Row(3, 0, ids[:5], 1, adapter=adapter)]
        np.testing.assert_array_equal(runner.run(beside)[:20], alone[:20])


def test_a_combination_in_company(case: Case) -> None:
    _, one, two, *_ = case.adapters
    assert one is not None
    assert two is not None
    mixed = combine([(one, 0.5), (two, -1.5)])
    requests = [request.again(mixed) if i % 3 == 0 else request for i, request in enumerate(case.requests())]
    runner = case.served.runner()
    alone = [run_alone(runner, request) for request in requests]
    run_together(case.served.runner(), requests, 7)
    assert differences(requests, alone) == []


def test_an_overflow_harms_nobody_else(case: Case) -> None:
    """Neither in its steps, nor those that get its slot and its lane afterwards."""
    bad = overflowing(case.served.groups)
    requests = case.requests()
    asked = [*requests[:5], requests[5].again(bad), *requests[6:]]
    runner = case.served.runner(num_lanes=5)
    run_together(runner, asked, 7)
    assert not np.isfinite(asked[5].logits[asked[5].num_prompt - 1]).any()
    good = [i for i in range(12) if i != 5]
    assert differences([asked[i] for i in good], [case.alone()[i] for i in good]) == []
    for slot in range(12):
        runner.free(slot)
    run_together(runner, requests, 7)
    assert differences(requests, case.alone()) == []


def test_an_overflow_in_an_idle_lane_is_not_seen(case: Case) -> None:
    """Nobody's adapter lies between two that run."""
    one, two, bad = case.others[0], make_adapter("two", case.served.groups, 8, 50), overflowing(case.served.groups)
    runner, ids = case.served.runner(), case.requests()[0].ids
    alone = [run_alone(runner, Asked(ids, 9, adapter)) for adapter in (one, two)]
    runner = case.served.runner()
    runner.run([Row(slot, 0, ids[:4], 1, adapter=adapter) for slot, adapter in enumerate((one, bad, two))])
    requests = [Asked(ids, 9, adapter) for adapter in (one, two)]
    run_together(runner, requests, slots=(4, 5))
    assert runner._extra._bound == Window(1, 0, 3)
    assert differences(requests, alone) == []


def test_experts_that_overflow_harm_nobody_else(cases: Cases) -> None:
    """All lanes run over all rows there, the bad one's too."""
    case = cases("mixtral")
    bad = make_adapter("bad", case.served.groups, 8, 51, lambda linear: ".experts." in linear, scale=1e38)
    requests = case.requests()
    asked = [request.again(bad) if i in (0, 7) else request for i, request in enumerate(requests)]
    run_together(case.served.runner(), asked, 7)
    assert not np.isfinite(asked[0].logits[asked[0].num_prompt - 1]).any()
    good = [i for i in range(12) if i not in (0, 7)]
    assert differences([asked[i] for i in good], [case.alone()[i] for i in good]) == []


@pytest.mark.parametrize("name", NAMES)
def test_two_threads(name: str, cases: Cases) -> None:
    case = cases(name)
    served = Served(case.served.package, threads=2)
    requests = case.requests()
    run_together(served.runner(), requests, 7, stagger=1)
    assert differences(requests, case.alone()) == []
