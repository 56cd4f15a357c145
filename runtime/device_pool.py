"""Keys and values of all slots in the memory of a device, which a graph takes and copies there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mistralrs_onnx.graphs import contract
from mistralrs_onnx.graphs.contract import KVGeometry

from .binding import bind_input
from .devices import Device
from .errors import PackageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding, OrtValue

DTYPE = np.dtype(contract.CUDA_KV_DTYPE)
MOST = 1 << 31  # elements that the operators of a device count
LOWER = "lower --max-model-len, --max-seqs or --prefix-cache-n, or say with --kv-mem how much there is"


class Part(NamedTuple):
    """Some slots of one buffer: an input of a graph, an output, and where both lie."""

    past: str
    present: str
    shape: tuple[int, ...]
    address: int


class DevicePool:
    """Buffers of shape (num_slots, num_heads, capacity, head_size), keys and values of each layer in turn, float16.

    `session`: of the graph that copies slots. All memory is taken at once and is zero. Raises PackageError where the
    device has too little.
    """

    def __init__(
        self, session: InferenceSession, device: Device, kv: KVGeometry, *, num_slots: int, capacity: int
    ) -> None:
        self.capacity = capacity
        self._session = session
        self._device = device
        self._shape = (kv.num_heads, capacity, kv.head_size)
        self._names = contract.cache_names(kv.num_layers)
        self._buffers = self._allocate(num_slots)

    def window(self, slots: slice) -> Iterator[Part]:
        """Of slots that follow each other."""
        shape = (slots.stop - slots.start, *self._shape)
        offset = slots.start * self._slot_elements * DTYPE.itemsize
        for (past, present), buffer in zip(self._names, self._buffers, strict=True):
            yield Part(past, present, shape, buffer.data_ptr() + offset)

    def bind(self, binding: IOBinding, slots: slice) -> None:
        """As past and present of a graph, which updates them in place."""
        for past, present, shape, address in self.window(slots):
            where = self._device.kind, self._device.index, DTYPE, shape, address
            binding.bind_input(past, *where)
            binding.bind_output(present, *where)

    def copy(self, source: int, target: int) -> None:
        """A whole slot, whatever it holds."""
        binding, shape = self._session.io_binding(), np.array([self._slot_elements], np.int64)
        bind_input(binding, contract.SLOT_SHAPE, shape)
        sources, targets = (self.window(slice(slot, slot + 1)) for slot in (source, target))
        for here, there in zip(sources, targets, strict=True):
            where = self._device.kind, self._device.index, DTYPE, (self._slot_elements,)
            binding.bind_input(here.past, *where, here.address)
            binding.bind_output(here.present, *where, there.address)
        self._session.run_with_iobinding(binding)

    @property
    def _slot_elements(self) -> int:
        heads, capacity, size = self._shape
        return heads * capacity * size

    def _allocate(self, num_slots: int) -> list[OrtValue]:
        elements = num_slots * self._slot_elements
        size = elements * len(self._names) * DTYPE.itemsize
        needed = f"keys and values of {num_slots} slots of {self.capacity} tokens need {size / 2**30:.1f} GiB"
        if elements >= MOST:
            raise PackageError(f"{needed}, more than a buffer of {self._device} may have: {LOWER}")
        binding, shape, zero = self._session.io_binding(), np.array([elements], np.int64), np.zeros(1, DTYPE)
        bind_input(binding, contract.SLOT_SHAPE, shape)
        for past, present in self._names:
            bind_input(binding, past, zero)
            binding.bind_output(present, self._device.kind, self._device.index)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the library raises bare types of its own
            raise PackageError(f"{needed}, which {self._device} does not have: {LOWER} ({error})") from error
        buffers: list[OrtValue] = binding.get_outputs()
        return buffers
