"""How much memory this machine has to spare, or the container that we are in."""

from __future__ import annotations

import os
from pathlib import Path

from mistralrs_onnx.runtime.containers import Container


def available_memory() -> int:
    """Bytes that can be had without swapping, as far as the system says; all of memory where it does not.

    In a container at most what its limit leaves.
    """
    bound = Container().memory()
    return _available() if bound is None else min(_available(), bound.room)


def total_memory() -> int:
    """Bytes of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return total_memory()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
