"""The runner for CUDA on the processor, which computes the same graph; and one to hold it against.

With MISTRALRS_TEST_DEVICE=cuda it is on a card, and the other is what it is here otherwise.
"""

from __future__ import annotations

import os

from mistralrs_onnx.runtime.core import Runner
from mistralrs_onnx.runtime.devices import CPU, Device, parse_device
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import OLDEST, OLDEST_UNIFORM, is_new_enough, make_session, runtime_library
from mistralrs_onnx.runtime.uniform_runner import UniformRunner

DEVICE = parse_device(os.environ.get("MISTRALRS_TEST_DEVICE", "cpu"))


def uniform_runner(
    package: Package, *, num_slots: int = 4, max_model_len: int = 64, device: Device = DEVICE
) -> UniformRunner:
    engine, slots = (make_session(path, None, device, OLDEST_UNIFORM) for path in package.cuda())
    return UniformRunner(engine, slots, package.manifest, device, num_slots=num_slots, max_model_len=max_model_len)


def serving_runner(package: Package, *, num_slots: int, max_model_len: int) -> Runner:
    if not is_new_enough(runtime_library(OLDEST_UNIFORM), OLDEST):  # as builds for CUDA are
        return uniform_runner(package, num_slots=num_slots, max_model_len=max_model_len, device=CPU)
    session = make_session(package.engine("float32"))
    return OrtRunner(session, package.manifest, num_slots=num_slots, max_model_len=max_model_len, max_chunk=256)
