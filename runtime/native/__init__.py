"""Kernels of our own for the packed linears of many formats, compiled from the C++ beside this file.

They need Linux on x86-64 with AVX-512 VNNI, and a compiler when the project is installed. Without them the same
packages run on stock operators, with results that differ as much as rounding does. The library also has what `rows.py`
calls, for any x86-64.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
PATTERN = "_kernels*.so"


def kernel_library(folder: Path = HERE) -> Path | None:
    """For `SessionOptions.register_custom_ops_library`, in programs that run int8 packages on the CPU themselves, too.

    None where there is none, or this processor cannot run it: `kernel_problem` says why.
    """
    return None if kernel_problem(folder) else library_file(folder)


@cache
def kernel_problem(folder: Path = HERE) -> str | None:
    """Why stock operators compute packed linears here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "there are kernels for Linux on x86-64 only"
    file = library_file(folder)
    if file is None:
        return "they were not compiled when this was installed"
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        return f"they cannot be loaded ({error})"
    return None if library.mistralrs_is_supported() else "they need a processor with AVX-512 VNNI"


def library_file(folder: Path = HERE) -> Path | None:
    """What was compiled, for whatever processor."""
    return next(iter(sorted(folder.glob(PATTERN))), None)
