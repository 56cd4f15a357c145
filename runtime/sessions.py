"""The one place where ONNX Runtime sessions are made, with the options that our graphs rely on."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from .errors import PackageError

# Before the import: it would note this computer's identity in the user's cache and report it to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime
except ImportError as error:
    raise ImportError(
        "onnxruntime is missing: install mistralrs-onnx[cpu], or mistralrs-onnx[cuda] on a GPU"
    ) from error

InferenceSession = onnxruntime.InferenceSession


def make_session(path: Path, num_threads: int | None = None) -> InferenceSession:
    """A session whose functions are inlined and folded: at a lower level packed linears would return zeros.

    `num_threads`: None takes the processors that this process may use. Raises PackageError.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = num_threads or num_processors()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else sessions slow each other
    try:
        session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises bare types of its own
        raise PackageError(f"onnxruntime {onnxruntime.__version__} cannot load {path}: {error}") from error
    _trim()
    return session


def num_processors() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _trim() -> None:
    """Returns what folding left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
