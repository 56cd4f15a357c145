"""Kernels of our own for the packed linears of many formats, compiled from the C++ beside this file.

They need Linux on x86-64 with AVX2, and a compiler when the project is installed. AVX-VNNI and AVX-512 VNNI make them
faster and change no bits; AMX does where there are many rows. Without kernels the same packages run on stock operators,
with results that differ as much as rounding does. The library also has what `rows.py` calls, with the same sets.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
PATTERN = "_kernels*.so"
VARIABLE = "MISTRALRS_KERNEL_ISA"


def kernel_library(folder: Path = HERE) -> Path | None:
    """For `SessionOptions.register_custom_ops_library`, in programs that run int8 packages on the CPU themselves, too.

    None where there is none, or this processor cannot run it: `kernel_problem` says why.
    """
    return None if kernel_problem(folder) else library_file(folder)


def kernel_problem(folder: Path = HERE) -> str | None:
    """Why stock operators compute packed linears here."""
    try:
        library = _library(folder)
    except OSError as error:
        return str(error)
    if library.mistralrs_instruction_set():
        return None
    wanted = os.environ.get(VARIABLE)
    return f"{VARIABLE}={wanted} is nothing that this processor has" if wanted else "they need a processor with AVX2"


def instruction_set(folder: Path = HERE) -> str | None:
    """What kernels of sessions use that are made from now on: amx, avx512, avxvnni or avx2.

    The fastest that the processor has, or what MISTRALRS_KERNEL_ISA names. None where there is a `kernel_problem`.
    """
    if kernel_problem(folder):
        return None
    name: bytes = _library(folder).mistralrs_instruction_set()
    return name.decode()


@cache
def _library(folder: Path) -> ctypes.CDLL:
    """Raises OSError."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise OSError("there are kernels for Linux on x86-64 only")
    file = library_file(folder)
    if file is None:
        raise OSError("they were not compiled when this was installed")
    try:
        library = ctypes.CDLL(str(file))
        library.mistralrs_instruction_set.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise OSError(f"they cannot be loaded ({error})") from error
    return library


def library_file(folder: Path = HERE) -> Path | None:
    """What was compiled, for whatever processor."""
    return next(iter(sorted(folder.glob(PATTERN))), None)
