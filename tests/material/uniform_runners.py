"""The runner for CUDA on the processor, which computes the same graph; and the one to hold it against."""

from __future__ import annotations

from mistralrs_onnx.runtime.devices import CPU
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import OLDEST_UNIFORM, make_session
from mistralrs_onnx.runtime.uniform_runner import UniformRunner


def uniform_runner(package: Package, *, num_slots: int = 4, max_model_len: int = 64) -> UniformRunner:
    engine, slots = (make_session(path, None, CPU, OLDEST_UNIFORM) for path in package.cuda())
    return UniformRunner(engine, slots, package.manifest, CPU, num_slots=num_slots, max_model_len=max_model_len)


def serving_runner(package: Package, *, num_slots: int, max_model_len: int) -> OrtRunner:
    session = make_session(package.engine("float32"))
    return OrtRunner(session, package.manifest, num_slots=num_slots, max_model_len=max_model_len, max_chunk=256)
