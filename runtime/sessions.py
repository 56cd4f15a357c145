"""The one place where ONNX Runtime is loaded and its sessions are made, with the options that our graphs rely on."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .containers import Container
from .cuda import PROVIDER, cuda_problem, provider_options
from .devices import CPU, Device, parse_device
from .errors import LibraryError, PackageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Version = tuple[int, int]

OLDEST = 1, 32  # attention over slots of unequal lengths
OLDEST_UNIFORM = 1, 31  # over those of equal lengths
BUILDS = ("onnxruntime", "onnxruntime-gpu")
HERE = Container()


def make_session(
    path: Path,
    num_threads: int | None = None,
    device: Device = CPU,
    oldest: Version = OLDEST,
    kernels: Path | None = None,
) -> InferenceSession:
    """A session whose functions are inlined and folded: at a lower level packed linears would return zeros.

    `num_threads`: None takes the processors that this process may use. `oldest`: the version that the graph needs.
    `kernels`: a library of operators that run instead of functions of their names. Raises PackageError, for a device
    that is not used, too.
    """
    library = runtime_library(oldest)
    options = library.SessionOptions()
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = num_threads or num_processors()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else sessions slow each other
    if kernels is not None:
        options.register_custom_ops_library(str(kernels))
    providers = _providers(library, device)
    try:
        session = library.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the library raises bare types of its own
        raise PackageError(f"onnxruntime {library.__version__} cannot load {path} on {device}: {error}") from error
    if device.is_cuda and PROVIDER not in session.get_providers():
        raise LibraryError(f"ONNX Runtime does not use {device}, and says above why: see `mistralrs-onnx doctor`")
    _trim()
    return session


def usable_device(text: str) -> Device:
    """Raises PackageError for a device that there is not, and LibraryError for one that cannot be used."""
    device = parse_device(text)
    if device.is_cuda:
        _check_cuda(runtime_library(OLDEST_UNIFORM), device)
    return device


def _providers(library: ModuleType, device: Device) -> list[str | tuple[str, dict[str, str]]]:
    """In the order in which they are asked. Raises LibraryError."""
    cpu = "CPUExecutionProvider"
    if not device.is_cuda:
        return [cpu]
    _check_cuda(library, device)
    return [(PROVIDER, provider_options(device.index)), cpu]


def _check_cuda(library: ModuleType, device: Device) -> None:
    problem = cuda_problem(library)
    if problem is not None:
        raise LibraryError(f"{device} cannot be used: {problem}")


@cache
def runtime_library(oldest: Version = OLDEST) -> ModuleType:
    """The module onnxruntime. Raises LibraryError when it is missing or older than `oldest`, or two builds of it
    overwrite each other.
    """
    installed = [name for name in BUILDS if _is_installed(name)]
    if len(installed) > 1:
        raise LibraryError(
            "onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall both, install one again"
        )
    # Before the import: it would note this computer's identity in the user's cache and report it to its makers.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        library = import_module("onnxruntime")
    except ImportError as error:
        raise LibraryError(f"onnxruntime cannot be imported ({error}): pip install 'mistralrs-onnx[cpu]'") from error
    if not is_new_enough(library, oldest):
        raise LibraryError(f"onnxruntime {library.__version__} is too old: {_newer(oldest)}")
    return library


def is_new_enough(library: ModuleType, oldest: Version) -> bool:
    return tuple(map(int, library.__version__.split(".")[:2])) >= oldest


def _newer(oldest: Version) -> str:
    """What to do about an older version."""
    number = ".".join(map(str, oldest))
    if oldest == OLDEST_UNIFORM:
        return f"pip install 'onnxruntime-gpu[cuda,cudnn]>={number}'"
    if _is_installed("onnxruntime-gpu"):
        return (
            f"it runs models on CUDA (--device cuda); the CPU needs pip install 'onnxruntime>={number}' instead of it"
        )
    return "pip install 'mistralrs-onnx[cpu]'"


def num_processors(container: Container = HERE) -> int:
    """That this process may use: threads beyond those would only wait for each other."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    share = container.processors()
    return allowed if share is None else max(1, min(allowed, int(share)))


def _is_installed(name: str) -> bool:
    try:
        return distribution(name) is not None
    except PackageNotFoundError:
        return False


def _trim() -> None:
    """Returns what folding left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
