"""Sessions: what can go wrong when one is made, and what importing them leaves on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest

from mistralrs_onnx.runtime import sessions
from mistralrs_onnx.runtime.containers import Container
from mistralrs_onnx.runtime.cuda import PROVIDER, cuda_problem
from mistralrs_onnx.runtime.devices import CPU, Device, parse_device
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.sessions import (
    OLDEST_UNIFORM,
    make_session,
    num_processors,
    runtime_library,
    usable_device,
)


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x0a nonsense")
    with pytest.raises(PackageError, match=r"cannot load .*broken\.onnx"):
        make_session(tmp_path / "broken.onnx")


def test_nothing_about_the_user_is_noted_down(smollm2, tmp_path: Path) -> None:
    """The runtime library keeps a device id and events under the home folder unless told not to."""
    code = (
        "import sys; from pathlib import Path; from mistralrs_onnx.runtime.sessions import make_session\n"
        "make_session(Path(sys.argv[1]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, smollm2.engine("float32")], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_threads_are_what_this_process_may_use() -> None:
    assert 1 <= num_processors() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 1), ("10000 100000", 1), ("99900000 100000", None)])
def test_a_container_gives_a_share_of_processors(tmp_path: Path, quota: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    (tmp_path / "own").write_text("0::/\n")
    allowed = num_processors(Container(tmp_path / "none", tmp_path / "own"))
    assert num_processors(Container(tmp_path, tmp_path / "own")) == min(allowed, expected or allowed)


@pytest.fixture(autouse=True)
def forget_the_library() -> Iterator[None]:
    runtime_library.cache_clear()
    yield
    runtime_library.cache_clear()


def test_two_builds_in_each_others_way_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_is_installed", lambda name: True)
    with pytest.raises(PackageError, match="overwrite each other: pip uninstall both"):
        runtime_library()


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PackageError, match=r"pip install 'mistralrs-onnx\[cpu\]'"):
        runtime_library()


def test_an_old_runtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.31.1"))
    with pytest.raises(PackageError, match=r"onnxruntime 1\.31\.1 is too old: pip install 'mistralrs-onnx\[cpu\]'"):
        runtime_library()
    assert runtime_library(OLDEST_UNIFORM).__version__ == "1.31.1"
    monkeypatch.setattr(sessions, "_is_installed", lambda name: name == "onnxruntime-gpu")
    with pytest.raises(PackageError, match=r"it runs models on CUDA .* the CPU needs pip install 'onnxruntime>=1\.32'"):
        runtime_library()
    runtime_library.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.30.0"))
    with pytest.raises(PackageError, match=r"pip install 'onnxruntime-gpu\[cuda,cudnn\]>=1\.31'"):
        runtime_library(OLDEST_UNIFORM)


class WithCuda(ModuleType):
    """A build of the library for CUDA. `used`: providers of its sessions."""

    __version__ = "1.31.1"

    def __init__(self, used: list[str]) -> None:
        super().__init__("onnxruntime")
        self.__file__ = "/nowhere/__init__.py"
        self.preloaded = 0
        self.asked: list[object] = []
        self.used = used
        self.SessionOptions, self.GraphOptimizationLevel = MagicMock(), MagicMock()

    def preload_dlls(self) -> None:
        print("Failed to load libcublas.so.13")
        self.preloaded += 1

    def get_available_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"]

    def InferenceSession(self, path: str, options: object, providers: list[object]) -> SimpleNamespace:  # noqa: N802
        self.asked = providers
        return SimpleNamespace(get_providers=lambda: self.used)


def test_a_card_is_asked_for_by_its_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = WithCuda([PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    make_session(tmp_path / "engine-cuda.onnx", 1, Device("cuda", 2), OLDEST_UNIFORM)
    options = {"device_id": "2", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
    assert library.asked == [(PROVIDER, options), "CPUExecutionProvider"]
    assert library.preloaded == 1
    assert capsys.readouterr().out == "", "what it prints is for the log"


def test_a_device_that_is_silently_not_used_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", WithCuda(["CPUExecutionProvider"]))
    with pytest.raises(PackageError, match=r"ONNX Runtime does not use cuda:0, and says above why: see .*doctor"):
        make_session(tmp_path / "engine-cuda.onnx", 1, Device("cuda"), OLDEST_UNIFORM)


def test_devices_are_known_by_name() -> None:
    assert usable_device("cpu") == CPU
    assert [str(parse_device(text)) for text in ("cpu", "cuda", "cuda:0", "cuda:15")] == [
        "cpu",
        "cuda:0",
        "cuda:0",
        "cuda:15",
    ]
    for text in ("", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "cuda:1\n"):
        with pytest.raises(PackageError, match="device must be cpu, cuda or cuda:N, got"):
            parse_device(text)


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the loader of the system says it: one of NVIDIA's, or the driver's."""
    library = WithCuda([])
    library.__file__ = str(tmp_path / "__init__.py")
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")

    def load(path: str, *_: object) -> None:
        raise OSError(f"{missing}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", load)
    missing = "libcudnn.so.9"
    assert str(cuda_problem(library)).endswith(
        "(libcudnn.so.9: cannot open shared object file): pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )
    missing = "libcuda.so.1"
    assert str(cuda_problem(library)).startswith("the NVIDIA driver is missing (libcuda.so.1")
