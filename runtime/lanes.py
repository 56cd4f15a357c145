"""Which adapters of a step run in which lanes of the serving graph, and the memory that lanes are bound to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.graphs.contract import LORA_BLOCK, MIN_LANE_ROWS, LoraGroup

from .adapters import Adapter, Float32
from .binding import bind_input
from .core import Row
from .kv_pool import reserve

if TYPE_CHECKING:
    from onnxruntime import IOBinding

LINE = 64
WASTE = 2  # how many rows may run for each that is wanted, before a step is cut into passes

Feeds = dict[str, NDArray[np.generic]]


class Window(NamedTuple):
    """Lanes `start` to `stop` of the pool for adapters of `blocks` blocks."""

    blocks: int
    start: int
    stop: int


class Lanes:
    """A cache of adapters in memory that graphs can be bound to; there are as many lanes as requests in a step.

    A graph takes consecutive lanes. An adapter stays in its lane while nobody needs the place, so that a step copies
    only what is new. Adapters of other ranks live in other pools.
    """

    def __init__(self, groups: Sequence[LoraGroup], num_lanes: int) -> None:
        self._groups = groups
        self._num_lanes = num_lanes
        self._pools: dict[int, _Pool] = {}
        self._has_experts = any(group.is_expert for group in groups)
        self._bound: Window | None = None
        self._feeds: Feeds = {}

    is_new_each_time = False

    @property
    def row_multiple(self) -> int:
        return MIN_LANE_ROWS if self._has_experts else 1

    def bind(self, binding: IOBinding, rows: Sequence[Row], num_tokens: int) -> None:
        window, self._feeds = self._place(rows, num_tokens)
        for name, value in self._feeds.items():
            bind_input(binding, name, value)
        if window != self._bound:
            self._bound = window
            for name, array in self._arrays(window):
                bind_input(binding, name, array)

    def _place(self, rows: Sequence[Row], num_tokens: int) -> tuple[Window, Feeds]:
        """Brings the adapters of a step into lanes. `num_tokens`: that are packed, their padding included."""
        adapters = list(dict.fromkeys(row.adapter for row in rows if row.adapter is not None))
        blocks = _power_of_two(max((adapter.blocks for adapter in adapters), default=1))
        pool = self._pool(blocks)
        start, lanes = pool.hold(adapters)
        window = Window(blocks, start, max(lanes.values(), default=start) + 1)
        used = np.zeros(len(self._groups), bool)
        for adapter in adapters:
            used[list(adapter.groups)] = True
        by_row = [-1 if row.adapter is None else lanes[row.adapter] - start for row in rows]
        feeds = _routes(rows, by_row, window.stop - start) | {contract.LORA_USED: used}
        if self._has_experts:
            feeds[contract.LORA_LANE] = _lane_of_tokens(rows, by_row, num_tokens)
        return window, feeds

    def _arrays(self, window: Window) -> Iterator[tuple[str, Float32]]:
        """The inputs of the graph that hold these lanes."""
        pool = self._pool(window.blocks)
        for group, arrays in zip(self._groups, pool.arrays, strict=True):
            for name, array in zip(contract.lora_inputs(group), arrays, strict=True):
                yield name, array[window.start : window.stop]

    def _pool(self, blocks: int) -> _Pool:
        if blocks not in self._pools:
            self._pools[blocks] = _Pool(self._groups, self._num_lanes, blocks)
        return self._pools[blocks]


def passes(rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of the rows that should run together: lanes have equally many rows in the graph, most of them padding
    when one adapter reads a prompt while others decode.
    """
    members: dict[Adapter | None, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(row.adapter, []).append(i)
    base = members.pop(None, [])
    lanes = sorted(members.values(), key=lambda lane: -_num_tokens(rows, lane))
    found: list[list[int]] = []
    while lanes:
        width, wanted, count = _num_tokens(rows, lanes[0]), 0, 0
        for lane in lanes:
            tokens = _num_tokens(rows, lane)
            if count and (count + 1) * width > WASTE * (wanted + tokens) + 2 * MIN_LANE_ROWS * len(rows):
                break
            wanted, count = wanted + tokens, count + 1
        found.append(sorted(i for lane in lanes[:count] for i in lane))
        lanes = lanes[count:]
    if not found:
        return [base]
    found[0] = sorted(base + found[0])
    return found


def _num_tokens(rows: Sequence[Row], lane: Sequence[int]) -> int:
    return sum(len(rows[i].token_ids) for i in lane)


@dataclass(slots=True)
class _Lane:
    """`generation`: what it holds. `groups`: where it holds anything but zeros."""

    generation: str = ""
    groups: frozenset[int] = frozenset()
    last_use: int = 0


@dataclass(slots=True)
class _Pool:
    """Lanes for adapters of up to `blocks` blocks: for each group a (lanes, linears · blocks, K, 16), and each b."""

    groups: Sequence[LoraGroup]
    num_lanes: int
    blocks: int
    arrays: list[list[Float32]] = field(init=False)
    lanes: list[_Lane] = field(init=False)
    clock: int = 0

    def __post_init__(self) -> None:
        self.lanes = [_Lane() for _ in range(self.num_lanes)]
        shapes = [[(self.num_lanes, *shape) for shape in _shapes(group, self.blocks)] for group in self.groups]
        memory = reserve(sum(_aligned(shape) for group in shapes for shape in group))
        offset = 0
        self.arrays = []
        for group in shapes:
            self.arrays.append([])
            for shape in group:
                size = int(np.prod(shape))
                self.arrays[-1].append(np.frombuffer(memory, np.float32, size, offset).reshape(shape))
                offset += _aligned(shape)

    def hold(self, adapters: Sequence[Adapter]) -> tuple[int, dict[Adapter, int]]:
        """Where the window begins, and each adapter's lane in it."""
        self.clock += 1
        wanted = {adapter.generation: adapter for adapter in adapters}
        held = {lane.generation: i for i, lane in enumerate(self.lanes) if lane.generation in wanted}
        if len(held) == len(wanted) and held:
            first, last = min(held.values()), max(held.values())
            if last + 1 - first <= len(wanted) + len(wanted) // 2:  # a few idle lanes cost less than copies
                return first, {adapter: self._use(held[adapter.generation]) for adapter in adapters}
        first = self._best_start(wanted, len(wanted))
        window = range(first, first + len(wanted))  # an adapter may also be in a lane elsewhere
        inside = {self.lanes[i].generation: i for i in window if self.lanes[i].generation in wanted}
        free = [i for i in window if i not in inside.values()]
        for adapter in adapters:
            if adapter.generation not in inside:
                lane = free.pop()
                self._fill(lane, adapter)
                inside[adapter.generation] = lane
        return first, {adapter: self._use(inside[adapter.generation]) for adapter in adapters}

    def _best_start(self, wanted: dict[str, Adapter], count: int) -> int:
        """Where most of the adapters are already; of equals, where the others were not used for longest."""

        def worth(start: int) -> tuple[int, int]:
            lanes = self.lanes[start : start + count]
            is_held = [lane.generation in wanted for lane in lanes]
            newest = max((lane.last_use for lane, held in zip(lanes, is_held, strict=True) if not held), default=0)
            return len({lane.generation for lane in lanes} & wanted.keys()), -newest

        return max(range(self.num_lanes - count + 1), key=worth)

    def _use(self, lane: int) -> int:
        self.lanes[lane].last_use = self.clock
        return lane

    def _fill(self, index: int, adapter: Adapter) -> None:
        lane, ranks = self.lanes[index], adapter.blocks * LORA_BLOCK
        for old in lane.groups - adapter.groups.keys():
            for array in self.arrays[old]:
                array[index] = 0
        for number, packed in adapter.groups.items():
            a, *bs = (array[index] for array in self.arrays[number])
            a = a.reshape(len(bs), self.blocks, *a.shape[1:])
            a[:, : adapter.blocks], a[:, adapter.blocks :] = packed.a, 0
            for target, b in zip(bs, packed.bs, strict=True):
                target[:ranks], target[ranks:] = b, 0
        lane.generation, lane.groups = adapter.generation, frozenset(adapter.groups)


def _shapes(group: LoraGroup, blocks: int) -> list[tuple[int, ...]]:
    a = len(group.linears) * blocks, group.in_features, LORA_BLOCK
    return [a, *((blocks * LORA_BLOCK, width) for width in group.out_features)]


def _aligned(shape: tuple[int, ...]) -> int:
    """Bytes of float32, in whole lines."""
    return -(-int(np.prod(shape)) * 4 // LINE) * LINE


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _routes(rows: Sequence[Row], lanes: Sequence[int], num_lanes: int) -> Feeds:
    """From packed tokens to rows of lanes and back."""
    counts = np.array([len(row.token_ids) for row in rows])
    ends = np.cumsum(counts)
    own: list[list[NDArray[np.int64]]] = [[] for _ in range(num_lanes)]
    for lane, end, count in zip(lanes, ends, counts, strict=True):
        if lane >= 0:
            own[lane].append(np.arange(end - count, end))
    tokens = [np.concatenate(each) if each else np.empty(0, np.int64) for each in own]
    width = max(MIN_LANE_ROWS, *(len(each) for each in tokens))
    grid = np.zeros((num_lanes, width), np.int64)
    for lane, each in enumerate(tokens):
        grid[lane, : len(each)] = each
        grid[lane, len(each) :] = each[-1] if len(each) else 0
    places = [lane * width + np.arange(len(each)) for lane, each in enumerate(tokens)]
    packed = np.concatenate(tokens)[:, None]
    return {
        contract.LORA_TOKENS: grid,
        contract.LORA_PLACES: np.concatenate(places).astype(np.int64),
        contract.LORA_ROWS: packed.astype(np.int64),
    }


def _lane_of_tokens(rows: Sequence[Row], lanes: Sequence[int], num_tokens: int) -> NDArray[np.int64]:
    """Padding repeats the last token, and so its lane."""
    each = np.repeat(np.array(lanes, np.int64), [len(row.token_ids) for row in rows])
    return np.concatenate([each, np.repeat(each[-1:], num_tokens - len(each))])
