"""Which adapters are loaded, under which names, and what a request that asks for some of them gets."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple
from weakref import WeakValueDictionary

from .adapters import Adapter, combine
from .errors import RequestError

KEPT = 4  # combinations that stay when no request uses them
MAX_PARTS = 16  # adapters of one request

Key = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class AdapterCaps:
    """How many adapters may be loaded, their largest rank, and bytes of all of them, combinations included."""

    count: int = 16
    rank: int = 256
    num_bytes: int = 8 << 30


class Part(NamedTuple):
    """An adapter by name, and what its updates are multiplied by."""

    name: str
    weight: float = 1.0


class AdapterRegistry:
    """Any thread may call. Adapters never change: a request keeps the one that it got, whatever its name means later.

    The active ones, at first none, are what a request gets that does not say what it wants.
    """

    def __init__(self, caps: AdapterCaps = AdapterCaps()) -> None:
        self.caps = caps
        self._lock = threading.Lock()
        self._adapters: dict[str, Adapter] = {}
        self._active: tuple[str, ...] = ()
        self._alive: WeakValueDictionary[Key, Adapter] = WeakValueDictionary()  # combinations that somebody holds
        self._kept: OrderedDict[Key, Adapter] = OrderedDict()

    def add(self, adapter: Adapter, *, replace: bool = False) -> None:
        """`replace`: another of this name. Raises RequestError when there is one, or no room."""
        with self._lock:
            old = self._adapters.get(adapter.name)
            if old is not None and not replace:
                message = f"an adapter {adapter.name!r} is loaded already: unload it first, or load it in place"
                raise RequestError(message, code="adapter_exists", param="lora_name")
            self._check_caps(adapter, old)
            self._adapters[adapter.name] = adapter
            self._kept.clear()

    def remove(self, name: str) -> Adapter:
        """Requests in flight keep it. Raises RequestError 404."""
        with self._lock:
            adapter = self._get(name)
            del self._adapters[name]
            self._active = tuple(each for each in self._active if each != name)
            self._kept.clear()
            return adapter

    def activate(self, names: Sequence[str]) -> None:
        """From now on these are active. Raises RequestError 404 for an unknown one, and then nothing changes."""
        parts = [Part(name) for name in dict.fromkeys(names)]
        self.select(parts)  # refuses what cannot run
        with self._lock:
            for name, _ in parts:
                self._get(name)
            self._active = tuple(name for name, _ in parts)

    @property
    def active(self) -> tuple[str, ...]:
        return self._active

    def loaded(self) -> list[Adapter]:
        """In the order of loading."""
        with self._lock:
            return list(self._adapters.values())

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    def select(self, parts: Sequence[Part] | None) -> Adapter | None:
        """What a request runs with. None: the active ones; none at all: the base. Raises RequestError 404 and 400."""
        with self._lock:
            wanted = [Part(name) for name in self._active] if parts is None else list(parts)
            chosen = [(self._get(name), weight) for name, weight in wanted]
        if not chosen:
            return None
        if len(chosen) == 1 and chosen[0][1] == 1.0:
            return chosen[0][0]
        return self._combined(chosen)

    def _combined(self, chosen: Sequence[tuple[Adapter, float]]) -> Adapter:
        _check_parts(chosen)
        rank = sum(adapter.rank for adapter, _ in chosen)
        if rank > self.caps.rank:
            message = f"the adapters have rank {rank} together, at most {self.caps.rank} can run in one request"
            raise RequestError(message, code="adapters_too_large", param="adapters")
        key = tuple((adapter.generation, weight) for adapter, weight in chosen)
        with self._lock:
            found = self._alive.get(key)
            if found is None:
                self._check_bytes(sum(adapter.nbytes for adapter, _ in chosen), 429)
        made = found or combine(chosen)
        with self._lock:
            if key not in self._alive:  # nor were others made meanwhile that left no room
                self._check_bytes(made.nbytes, 429)
            made = self._alive.setdefault(key, made)
            self._kept[key] = made
            self._kept.move_to_end(key)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def _get(self, name: str) -> Adapter:
        if name not in self._adapters:
            near = get_close_matches(name, self._adapters, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f": loaded are {sorted(self._adapters) or 'none'}"
            message = f"The adapter {name!r:.128} does not exist{hint}"
            raise RequestError(message, status=404, code="adapter_not_found", param="adapters")
        return self._adapters[name]

    def _check_caps(self, adapter: Adapter, old: Adapter | None) -> None:
        if adapter.rank > self.caps.rank:
            message = f"adapter {adapter.name!r} has rank {adapter.rank}, at most {self.caps.rank} is allowed"
            raise RequestError(message, code="adapter_too_large", param="lora_path")
        if old is None and len(self._adapters) >= self.caps.count:
            message = f"{len(self._adapters)} adapters are loaded, which is all this server takes: unload one first"
            raise RequestError(message, code="too_many_adapters", param="lora_name")
        self._check_bytes(adapter.nbytes - (0 if old is None else old.nbytes), 400)

    def _check_bytes(self, more: int, status: int) -> None:
        while self._kept and self._held() + more > self.caps.num_bytes:
            self._kept.popitem(last=False)
        held = self._held()
        if held + more > self.caps.num_bytes:
            message = f"adapters take {held} bytes, {more} more exceed the limit of {self.caps.num_bytes}"
            advice = "unload one first" if status == 400 else "try later, or load a merged adapter"
            raise RequestError(f"{message}: {advice}", status=status, code="no_room_for_adapters", param="adapters")

    def _held(self) -> int:
        return sum(each.nbytes for each in (*self._adapters.values(), *self._alive.values()))


def _check_parts(chosen: Sequence[tuple[Adapter, float]]) -> None:
    if len(chosen) > MAX_PARTS:
        message = f"at most {MAX_PARTS} adapters in one request, got {len(chosen)}"
        raise RequestError(message, code="adapters_too_large", param="adapters")
    for adapter, weight in chosen:
        if not math.isfinite(weight):
            message = f"the weight of adapter {adapter.name!r} must be a finite number, got {weight}"
            raise RequestError(message, param="adapters")
