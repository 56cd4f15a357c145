"""Keys and values of all slots: addresses are reserved for every token, memory is used for those written."""

from __future__ import annotations

import mmap
import sys

import numpy as np
from numpy.typing import NDArray

from .errors import PackageError

MAP_NORESERVE = 0x4000  # Linux; Python has no name for it
PAGE = mmap.PAGESIZE


class KVPool:
    """Arrays of shape (num_slots, num_heads, capacity, head_size), keys and values of each layer in turn.

    On Linux the memory of a slot is touched page by page as tokens are written and can be given back;
    elsewhere everything is allocated at once. Raises PackageError where there are too few addresses.
    """

    def __init__(
        self,
        num_slots: int,
        num_layers: int,
        num_heads: int,
        capacity: int,
        head_size: int,
        dtype: np.dtype[np.generic],
    ) -> None:
        row = head_size * dtype.itemsize
        self.capacity = _page_multiple(capacity, row)
        shape = (2 * num_layers, num_slots, num_heads, self.capacity, head_size)
        size = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
        try:
            self._map = reserve(size)
        except (OSError, OverflowError) as error:
            message = (
                f"keys and values of {num_slots} slots of {self.capacity} tokens need {size >> 30} GiB of addresses, "
                "which this machine does not have: lower max_seqs, prefix_cache_n or max_model_len"
            )
            raise PackageError(message) from error
        self.arrays: NDArray[np.generic] = np.frombuffer(self._map, dtype).reshape(shape)
        self._row_bytes = row

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        self.arrays[:, target, :, :num_tokens] = self.arrays[:, source, :, :num_tokens]

    def free(self, slot: int, keep: int = 0) -> None:
        """Gives back the pages of a slot that hold only tokens from `keep` on."""
        if not _LAZY:
            return
        head_bytes = self.capacity * self._row_bytes
        kept = -(-keep * self._row_bytes // PAGE) * PAGE
        buffers, slots, heads = self.arrays.shape[:3]
        for buffer in range(buffers):
            start = (buffer * slots + slot) * heads * head_bytes
            if not kept:
                self._map.madvise(mmap.MADV_DONTNEED, start, heads * head_bytes)
            for head in range(heads if 0 < kept < head_bytes else 0):
                self._map.madvise(mmap.MADV_DONTNEED, start + head * head_bytes + kept, head_bytes - kept)


_LAZY = sys.platform == "linux"


def _page_multiple(capacity: int, row_bytes: int) -> int:
    """The least capacity from `capacity` on at which each head of each slot starts on a page."""
    step = PAGE // np.gcd(PAGE, row_bytes)
    return -(-capacity // int(step)) * int(step)


def reserve(size: int) -> mmap.mmap:
    """Addresses for so many bytes; on Linux each page takes memory when it is first written, and is zero until then."""
    if not _LAZY:
        return mmap.mmap(-1, size)
    reserved = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    reserved.madvise(mmap.MADV_NOHUGEPAGE)  # with huge pages, the first token of a head would cost two megabytes
    return reserved
