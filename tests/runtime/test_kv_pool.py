"""The pool of keys and values: addresses are free, memory is what was written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.kv_pool import KVPool

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux only")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_pool(num_slots: int = 4, capacity: int = 1000, dtype: type[np.floating] = np.float32) -> KVPool:
    return KVPool(num_slots, 2, 3, capacity, 64, np.dtype(dtype))


def test_capacity_makes_each_head_start_on_a_page() -> None:
    pool = make_pool(capacity=1000)
    assert pool.capacity == 1008
    assert pool.arrays.shape == (4, 4, 3, 1008, 64)


def test_rows_are_copied_and_no_others() -> None:
    pool = make_pool()
    pool.arrays[:, 1] = 5
    pool.copy(1, 3, 10)
    assert (pool.arrays[:, 3, :, :10] == 5).all()
    assert not pool.arrays[:, 3, :, 10:].any()
    assert not pool.arrays[:, 2].any()


@linux
@pytest.mark.parametrize("keep", [0, 20])
def test_freed_rows_are_zero_and_kept_ones_stay(keep: int) -> None:
    pool = make_pool()
    pool.arrays[:] = 7
    pool.free(2, keep)
    rows_of_a_page = 16
    kept = -(-keep // rows_of_a_page) * rows_of_a_page
    assert (pool.arrays[:, 2, :, :kept] == 7).all()
    assert not pool.arrays[:, 2, :, kept:].any()
    assert (pool.arrays[:, [0, 1, 3]] == 7).all()


@linux
def test_a_pool_larger_than_memory_costs_what_is_written_and_gives_it_back() -> None:
    before = resident()
    pool = KVPool(16, 30, 3, 131072, 64, np.dtype(np.float32))
    assert pool.arrays.nbytes > 90e9
    pool.arrays[:, 5, :, :20] = 1  # 20 tokens: two pages of each head of each buffer
    written = resident() - before
    assert written < 8 << 20
    pool.arrays[:, 5, :, :2000] = 1
    pool.free(5)
    assert resident() - before < written + (4 << 20)


@pytest.mark.parametrize("num_slots", [10**9, 10**14])
def test_more_than_can_be_addressed_is_said_to_be(num_slots: int) -> None:
    with pytest.raises(PackageError, match="lower max_seqs, prefix_cache_n or max_model_len"):
        KVPool(num_slots, 32, 8, 8192, 128, np.dtype(np.float32))
