"""The batch of twelve requests on the real model, whose matrices are as large as kernels divide them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from served_lora import Asked, Served, differences, four_adapters, overflowing, run_alone, run_together, twelve_requests
from tiny_lora import make_adapter

from mistralrs_onnx.graphs.contract import KVDtype
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.runner import OrtRunner

VOCAB = 40000


@pytest.fixture(scope="module")
def served(smollm2: Package) -> Served:
    return Served(smollm2, threads=2)


def asked(adapters: Sequence[Adapter], num_decoded: int = 2) -> list[Asked]:
    return twelve_requests([None, *adapters], VOCAB, num_decoded)


def test_one_batch_while_another_takes_and_leaves_lanes(served: Served) -> None:
    adapters = four_adapters(served.groups, lambda linear: ".layers.0." in linear or ".layers.20." in linear)
    runner = served.runner(num_lanes=4)
    alone = [run_alone(runner, request) for request in asked(adapters)]
    other = make_adapter("other", served.groups, 24, 5, lambda linear: ".layers.3." in linear)

    def between(runner: OrtRunner) -> None:
        runner.run([Row(12, 0, [5, 6], 1, adapter=other), Row(13, 0, [7], 1)])

    together = asked(adapters)
    run_together(runner, together, between=between)
    assert differences(together, alone) == []
    for request, expected in zip(together[1:5], alone[1:5], strict=True):
        base = run_alone(runner, Asked(request.ids, request.num_prompt, None))
        assert not np.array_equal(base, expected)


@pytest.fixture(scope="module")
def adapters(served: Served) -> list[Adapter]:
    """Of all layers, 300 MB."""
    return four_adapters(served.groups)


@pytest.mark.full
@pytest.mark.parametrize("kv_dtype", ["float32", "float16"])
@pytest.mark.parametrize("chunk", [1, 7, 16, 40])
def test_chunks_beside_decodes_and_an_overflow(
    served: Served, adapters: list[Adapter], chunk: int, kv_dtype: KVDtype
) -> None:
    runner = served.runner(num_lanes=8, kv_dtype=kv_dtype)
    alone = [run_alone(runner, request) for request in asked(adapters)]
    wide = [
        make_adapter(str(rank), served.groups, rank, rank, lambda linear: ".layers.0." in linear) for rank in (100, 200)
    ]
    together = [
        *asked(adapters),
        *(asked(adapters)[i].again(each) for i, each in enumerate((*wide, overflowing(served.groups)))),
    ]
    run_together(runner, together, chunk, stagger=1, slots=range(16))
    assert differences(together[:12], alone) == []
    assert not np.isfinite(together[14].logits[together[14].num_prompt - 1]).any()
