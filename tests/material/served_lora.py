"""Models that take adapters, runners of them, and requests whose logits are known alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tiny_lora import make_adapter

from mistralrs_onnx.graphs.contract import KVDtype, LoraGroup
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.lanes import Lanes
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.probe import settle_rows
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session

MAX_LEN = 128


class Served:
    """Runners over one session for each type of keys and values, each with slots and lanes of its own."""

    def __init__(self, package: Package, threads: int = 1) -> None:
        self.package, self.manifest = package, package.manifest
        self.groups = package.manifest.lora
        self._threads = threads
        self._sessions = {}

    def runner(self, num_slots: int = 16, num_lanes: int = 8, kv_dtype: KVDtype = "float32") -> OrtRunner:
        if kv_dtype not in self._sessions:
            engine = self.package.engine(kv_dtype, takes_adapters=True)
            self._sessions[kv_dtype] = make_session(engine, self._threads)
        runner = OrtRunner(
            self._sessions[kv_dtype],
            self.manifest,
            num_slots=num_slots,
            max_model_len=MAX_LEN,
            max_chunk=MAX_LEN,
            kv_dtype=kv_dtype,
            extra=Lanes(self.groups, num_lanes),
        )
        settle_rows(runner)
        return runner


def everywhere(linear: str) -> bool:
    return True


def four_adapters(groups: Sequence[LoraGroup], wanted: Callable[[str], bool] = everywhere) -> list[Adapter]:
    """Of ranks 4, 16, 20 and 64; two adapt everything that is wanted, one some of attention, one the rest of layers."""
    return [
        make_adapter("all", groups, 4, 1, wanted),
        make_adapter("attention", groups, 16, 2, lambda each: wanted(each) and each.endswith(("q_proj", "v_proj"))),
        make_adapter("mlp", groups, 20, 3, lambda each: wanted(each) and ".mlp." in each),
        make_adapter("wide", groups, 64, 4, wanted, scale=0.3),
    ]


def overflowing(groups: Sequence[LoraGroup]) -> Adapter:
    """Its values are finite, and what they are multiplied to is not."""
    return make_adapter("overflowing", groups, 8, 9, lambda linear: ".layers.0." in linear, scale=1e38)


@dataclass(slots=True)
class Asked:
    """A prompt and what is decoded after it. `done`: tokens that ran; `logits`: of some of them, by position."""

    ids: list[int]
    num_prompt: int
    adapter: Adapter | None
    done: int = 0
    logits: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def row(self, slot: int, chunk: int) -> Row | None:
        """Its next tokens, up to `chunk` of the prompt; None when there are no more."""
        if self.done == len(self.ids):
            return None
        end = min(self.done + chunk, self.num_prompt) if self.done < self.num_prompt else self.done + 1
        return Row(slot, self.done, self.ids[self.done : end], 1, adapter=self.adapter)

    def again(self, adapter: Adapter | None = None) -> Asked:
        return Asked(self.ids, self.num_prompt, adapter or self.adapter)


def twelve_requests(adapters: Sequence[Adapter | None], vocab: int, num_decoded: int = 5) -> list[Asked]:
    """Adapters take turns; prompts of 1 to 40 tokens."""
    rng = np.random.default_rng(0)
    lengths = [40, 1, 7, 2, 16, *rng.integers(1, 40, 7).tolist()]
    owners = [adapters[i % len(adapters)] for i in range(12)]
    return [
        Asked(rng.integers(2, vocab, length + num_decoded).tolist(), length, owner)
        for owner, length in zip(owners, lengths, strict=True)
    ]


Between = Callable[[OrtRunner], None]


def run_together(
    runner: OrtRunner,
    requests: Sequence[Asked],
    chunk: int = MAX_LEN,
    stagger: int = 0,
    between: Between = lambda runner: None,
    slots: Sequence[int] = range(12),
) -> None:
    """Steps until all are done; request i enters in step i · stagger. `between`: what else happens, before each."""
    for step in range(500):
        entered = [
            (each, slot) for i, (each, slot) in enumerate(zip(requests, slots, strict=False)) if step >= i * stagger
        ]
        some = [(each, row) for each, slot in entered if (row := each.row(slot, chunk)) is not None]
        if some:
            between(runner)
            logits = runner.run([row for _, row in some])
            for (each, row), found in zip(some, logits, strict=True):
                each.done += len(row.token_ids)
                each.logits[each.done - 1] = found.copy()
        elif len(entered) == len(requests):
            return
    raise AssertionError("the requests do not end")


def run_alone(runner: OrtRunner, request: Asked, slot: int = 0) -> NDArray[np.float32]:
    """Logits of every position, from the whole prompt in one step and then one token at a time."""
    rows = [Row(slot, 0, request.ids[: request.num_prompt], request.num_prompt, adapter=request.adapter)]
    rows += [
        Row(slot, i, [request.ids[i]], 1, adapter=request.adapter) for i in range(request.num_prompt, len(request.ids))
    ]
    logits = np.concatenate([runner.run([row]).copy() for row in rows])
    runner.free(slot)
    return logits


def differences(requests: Sequence[Asked], alone: Sequence[NDArray[np.float32]]) -> list[str]:
    """Where bits are not those of the request alone; NaN equals itself."""
    found = []
    for i, (request, expected) in enumerate(zip(requests, alone, strict=True)):
        name = "the base" if request.adapter is None else request.adapter.name
        assert len(request.logits) > len(request.ids) - request.num_prompt
        for position, logits in request.logits.items():
            if not np.array_equal(logits, expected[position], equal_nan=True):
                found.append(f"request {i} of {name} at {position} of {request.num_prompt}")
    return found
