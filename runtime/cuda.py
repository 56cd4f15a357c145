"""ONNX Runtime's CUDA provider: whether it is there, and what keeps it from being loaded."""

from __future__ import annotations

import ctypes
import io
import logging
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

PROVIDER = "CUDAExecutionProvider"
INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
SHARED, LIBRARY = "libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"
DRIVER = "libcuda.so.1"

logger = logging.getLogger(__name__)


def provider_options(index: int) -> dict[str, str]:
    """Of the card of that number. Memory grows by what is asked for, not to the next power of two; products of
    float32, which are few, are not rounded to ten bits.
    """
    return {"device_id": str(index), "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}


class Problem(NamedTuple):
    """What is missing, and what to do about it."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}"


def cuda_problem(library: ModuleType) -> Problem | None:
    """None where sessions on CUDA can be tried."""
    preload(library)
    if PROVIDER not in library.get_available_providers():
        text = f"onnxruntime {library.__version__} has no {PROVIDER}"
        return Problem(text, f"pip uninstall -y onnxruntime, then {INSTALL}")
    reason = _loading_problem(Path(library.__file__ or "").parent / "capi")
    if DRIVER in reason:
        text = f"the NVIDIA driver is missing ({reason})"
        return Problem(text, "install it, or give the container the card (--gpus all)")
    return Problem(f"{PROVIDER} cannot be loaded ({reason})", INSTALL) if reason else None


@cache
def preload(library: ModuleType) -> None:
    """Loads the libraries of NVIDIA's packages for Python, which the loader of the system does not find."""
    if not hasattr(library, "preload_dlls"):
        return
    said = io.StringIO()
    with redirect_stdout(said):  # it prints what it does not find
        library.preload_dlls()
    for line in said.getvalue().splitlines():
        logger.debug("%s", line)


def _loading_problem(folder: Path) -> str:
    """Of the provider's library, as the loader of the system says it; empty elsewhere than on Linux."""
    if sys.platform != "linux" or not (folder / LIBRARY).is_file():
        return ""
    with suppress(OSError):
        ctypes.CDLL(str(folder / SHARED), ctypes.RTLD_GLOBAL)
    try:
        ctypes.CDLL(str(folder / LIBRARY))
    except OSError as error:
        return str(error)
    return ""
